"""Many state keys behind one key of the engine.

====================  ====================================================================
file                  noun
====================  ====================================================================
routing.py            items into shards, and outputs out of them
shard_names.py        the names of shards as keys of the engine
shard.py              the part that all shards share: deltas, deadlines, restored keys
shard_builder.py      the builder that the engine calls for a shard
logic_shard.py        the shard that runs the logic objects of any operator
deferred_window.py    a window whose notification is deferred until it can close something
logic_snapshots.py    the snapshots of Bytewax's own logics, without a copy
return_checks.py      checks of the return values of a user's logic
timers.py             the notification times of a shard's keys
deadlines.py          the times at which idle keys are dropped
flow_clock.py         the flow's time
handover.py           restored states that wait for their shards
snapshot_requests.py  requests to all shards for a full snapshot
====================  ====================================================================
"""
