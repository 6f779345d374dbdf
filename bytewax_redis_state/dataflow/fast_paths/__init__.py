"""Shards of operators whose logic is known, without a logic object per key.

==============  ==========================================================================
file or room    noun
==============  ==========================================================================
registry.py     the fast paths that there are, and which one a step has
fast_path.py    the description of one fast path
pair_shard.py   the part that shards share if they process items one by one
state_shard.py  the part that shards share if a key's state is all that they hold
maps.py         ``stateful_map``, ``stateful_flat_map``
folds.py        ``fold_final``, ``reduce_final`` and operators built on them
joins.py        ``join``
`windows`       ``fold_window`` and operators built on it, over the event clock
==============  ==========================================================================
"""
