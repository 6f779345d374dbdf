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
backpressure.py    a flow whose rows Redis does not take waits, and stops in time
vitals.py          what a running flow says of its state
watchdog.py        keeps the replicator alive from the dataflow's process
setup.py           what a replicator is told
replicator.py      the process that ships rows
parent.py          the dataflow's process, as a replicator sees it
wakeup.py          waits until the outbox may have changed
pulse.py           the replicator's heartbeat and lag, shown while it works
confirmer.py       up to which row Redis is as sure as it should be
guard.py           whether a failover may take back what Redis has acknowledged
renewal.py         a flow that runs while its Redis comes back empty
token.py           which start writes, compared by every script
members.py         the processes of a cluster until their engines have met
journal.py         the durable log of deltas
checkpoint.py      folding the journal into the keyed state
checkpointer.py    a fold every interval, beside the shipping
stock_store.py     a recovery directory of stock Bytewax, opened without a trace
stock_findings.py  what is in it, counted, and what it costs
inert.py           a stranger's pickle, looked into without running it
verification.py    what can be checked of a flow without running it
findings.py        what is found then
census.py          all states, counted and looked at
seals.py           which keys protect the values
status.py          the replicator's heartbeat and lag in shared memory
=================  =======================================================================
"""
