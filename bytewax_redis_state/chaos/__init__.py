"""The fault harness: runs a flow whose answer is known, injects faults, and compares what is left.

=============  ==================================================================================
module         noun
=============  ==================================================================================
`stream`       the events, each of which follows from its number
`flow`         the dataflow that reads them
`answer`       what it must leave, worked out without Bytewax
`harvest`      what it has left, in Redis and in files
`schedule`     which faults strike which flow, and when: all of it follows from a seed
`faults`       the kinds of faults
`input_limiter` up to which event the flow may read while they strike it
`member`       one process of a dataflow
`execution`    all processes of one start
`servers`      the Redis that is struck: one server, or several in a group
`proxy`        the network between them, which is struck too
`ports`        loopback ports that nobody else takes
`disk`         a small disk for scratch files, to be filled
`faketime`     the clock of one process, shifted
`scene`        processes, their supervisor, the network and the flow's Redis
`trial`        one flow from its start to its end under some faults
`campaign`     all trials of a schedule
`stock`        the same flow under the same faults with Bytewax's own recovery
=============  ==================================================================================
"""
