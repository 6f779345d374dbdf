"""The network of a trial: its ports, and the proxy that makes it fail.

=============  ==================================================================================
module         noun
=============  ==================================================================================
`ports`        loopback ports that no other test, trial or server takes
`proxy`        a TCP proxy between a dataflow process and Redis, whose connections can be struck
=============  ==================================================================================
"""
