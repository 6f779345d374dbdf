"""The only room that knows Bytewax's Python side: the step tree, shards, wrapped sources and sinks.

=================  =======================================================================
file or room       noun
=================  =======================================================================
steps.py           the steps of a flow that bear state, and their short names
stateless_ends.py  the streams that end without state, so that no run ends early
retention.py       how long each keyed step keeps an idle key
rewrite.py         an unmodified flow to one with shards and wrapped sources and sinks
`shards`           many state keys behind one key of the engine
`fast_paths`       shards of operators whose logic is known, without a logic object per key
`connectors`       wrapped sources and sinks, and the gate that holds sources back
=================  =======================================================================
"""
