"""From a flow at rest to an outbox that the engine can load.

================  ========================================================================
file              noun
================  ========================================================================
steps.py          the numbered list of the steps, and the function that makes them
process_start.py  the steps that each process makes
takeover.py       the steps that the coordinator makes, from its number to the manifest
plan.py           how the flow's steps and partitions fit the manifest
join_barrier.py   where the processes of a cluster meet
restore.py        the keyed state, read back into the process
expiry.py         keys that Redis has dropped, and when it may drop the others
reseal.py         restored values that another secret key protects, written again
================  ========================================================================
"""
