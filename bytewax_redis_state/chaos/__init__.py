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
`member`       one process of a dataflow, and all processes of one start
`servers`      the Redis that is struck: one server, or several in a group
`proxy`        the network between them, which is struck too
`trial`        one flow from its start to its end under some faults
`campaign`     all trials of a schedule
=============  ==================================================================================
"""
