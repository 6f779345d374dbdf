"""Bytewax's recovery files on one side, Redis on the other.

=================  =======================================================================
file or room       noun
=================  =======================================================================
redis_recovery.py  what users call
session.py         one run, from its start to its drain
interrupts.py      Ctrl-C and SIGTERM, remembered until the run heeds them
reporter.py        what a session tells a person
watched_thread.py  a thread whose death is seen by somebody
flow_status.py     what a running flow says of its state
`start`            from a claimed lease to an outbox that the engine can load
`records`          what Redis holds of a flow
`outbox`           Bytewax's recovery files on the scratch disk, and our log table in them
`replicator`       the process that ships rows to Redis, its threads, and who watches it
=================  =======================================================================
"""
