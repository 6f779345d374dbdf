"""Bytewax's recovery files on one side, Redis on the other.

=================  =======================================================================
file or room       noun
=================  =======================================================================
redis_recovery.py  the class that users call
session.py         one run, from its resume to its drain
stopping.py        the end of a run: who ends it, how it drains, which error its caller gets
interrupts.py      Ctrl-C and SIGTERM, remembered until the run stops
reporter.py        tells a person what a session does
watched_thread.py  a thread whose death is seen by somebody
child_processes.py what forked children of the flow's process give up
sightings.py       how far Redis has said that a flow is, to notice one that went back
flow_status.py     how the flows of this process do, for metrics
`start`            from a claimed lease to an outbox that the engine can load
`records`          the records that Redis holds of a flow
`outbox`           Bytewax's recovery files on the scratch disk, and our log table in them
`replicator`       the process that ships rows to Redis, its threads, and who watches it
=================  =======================================================================
"""
