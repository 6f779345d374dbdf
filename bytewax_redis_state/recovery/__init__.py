"""Bytewax's recovery files on one side, Redis on the other.

==============  ==========================================================================
file            noun
==============  ==========================================================================
outbox.py       the log table in Bytewax's recovery partition; the only user of sqlite3
scratch.py      the private, locked folder of one execution
manifest.py     what a generation is made of
lease.py        who runs a process of the flow
cluster.py      the join barrier: all processes of one execution, one coordinator
takeover.py     the numbered steps of a start
journal.py      the durable log of deltas
checkpoint.py   folding the journal into the keyed state
restore.py      keyed state back into a fresh outbox
replicator.py   the process that ships rows
status.py       the replicator's heartbeat and lag in shared memory
watchdog.py     keeps the replicator alive from the dataflow's process
session.py      all of it around one run: RedisRecovery
==============  ==========================================================================
"""
