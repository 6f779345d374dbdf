"""Bytewax's recovery files on one side, Redis on the other.

=================  =======================================================================
file               noun
=================  =======================================================================
redis_recovery.py  what users call
session.py         one run, from its resume to its drain
interrupts.py      Ctrl-C and SIGTERM, remembered until the run heeds them
reporter.py        what a session tells a person
resume.py          from a claimed lease to an outbox that the engine can load
plan.py            how the flow fits what Redis holds of it
lease.py           who runs a process of the flow
cluster.py         the join barrier: all processes of one execution, one coordinator
manifest.py        what a generation is made of
cells.py           what Redis says of each (step, shard) beside its keys
expiry.py          what Redis has dropped by itself, and when it may drop the rest
takeover.py        the numbered steps of a start
restore.py         keyed state back into a fresh outbox
reseal.py          restored values that other keys protect, written anew
scratch.py         the private, locked folder of one execution
outbox.py          the log table in Bytewax's recovery partition; the only user of sqlite3
watchdog.py        keeps the replicator alive from the dataflow's process
setup.py           what a replicator is told
replicator.py      the process that ships rows
members.py         the processes of a cluster until their engines have met
journal.py         the durable log of deltas
checkpoint.py      folding the journal into the keyed state
checkpointer.py    a fold every interval, beside the shipping
stock_store.py     a recovery directory of stock Bytewax, opened without a trace
stock_findings.py  what is in it, counted, and what it costs
inert.py           a stranger's pickle, looked into without running it
status.py          the replicator's heartbeat and lag in shared memory
=================  =======================================================================
"""
