"""The Redis of a trial, and of tests: one server, or several in a group.

================  ==================================================================================
module            noun
================  ==================================================================================
`node`            one server process
`deployment`      the interface of a trial's Redis, whatever it is made of
`single_server`   one server
`own_server`      the embedded server of a flow
`server_group`    several servers, of which one takes over from another
`sentinel_group`  a primary with replicas, and Sentinels that watch it
`cluster_group`   a Redis Cluster
`server_modes`    the modes that the installed server program can run in
================  ==================================================================================
"""
