"""The fault harness: runs a flow whose result is known, injects faults, and compares the result.

=================  =================================================================================
module             noun
=================  =================================================================================
`input_events`     the events of the flow: each follows from its number
`hostile_values`   values of hostile shape: deeply nested, large, at the edge of a type
`flow`             the dataflow that reads them
`flow_result`      state and output of a flow; the expected ones, worked out without Bytewax
`result_reader`    the result that a flow has left in Redis and in files
`input_limiter`    the number of the event up to which the flow may read
`waiting`          how to wait for a condition, within a bound
`network`          ports, and the proxy between a dataflow and Redis
`servers`          the Redis of a trial: one server, or several in a group
`flow_process`     one process of a dataflow, and its replicator
`execution`        all processes of one start
`faketime`         the clock of one process, shifted
`schedule`         the planned faults of each flow: all follow from a seed
`system`           the system under test: processes, their supervisor, the network and Redis
`small_disk`       a small disk for scratch files, to be filled
`process_limits`   limits of a running process, lowered for a while
`damage`           damage to single records in Redis
`server_damage`    damage to one server of several, and older dumps
`faults`           the kinds of faults
`trial`            one flow from its start to its end under some faults
`stock_trial`      the same with Bytewax's own recovery
`campaign`         all trials of a schedule
=================  =================================================================================
"""
