"""The process that ships rows to Redis, its threads, and the watchdog that keeps it alive.

The watchdog and backpressure run in the dataflow's process, all else in the replicator's.

====================  ====================================================================
file                  noun
====================  ====================================================================
watchdog.py           starts a replicator, restarts it, stops the flow when a restart is of no use
backpressure.py       holds the sources while Redis accepts no writes, or the disk is nearly full
status.py             the status board: memory that both processes map
life_file.py          of which life of a flow the status board speaks
config.py             all that a replicator is told, as one line of JSON
process.py            the replicator's process: signals, the lives of a flow, its ending
replicator.py         one life of a flow: the main loop, the drain, the threads
shipper.py            appends rows of the outbox to the journal
row_translator.py     turns an outbox row into a journal entry
pruner.py             deletes rows that Redis has confirmed
last_steps.py         the steps of a drain after the last row
renewal.py            fills a Redis again that came back empty
checkpointer.py       the thread that folds the journal
confirmer.py          the thread that asks which rows are durable
heartbeat.py          the thread that measures the outbox and shows the status
failover_guard.py     whether a failover may take back acknowledged writes
member_watch.py       the other processes of a cluster, until their engines have met
parent_process.py     the dataflow's process, and its end
embedded_watch.py     starts an embedded server again that has ended under its flow
file_watch.py         waits for writes to the outbox
connection.py         a named connection to Redis
backoff.py            how long to wait before the next try
====================  ====================================================================
"""
