"""The Redis that a trial strikes, and that tests strike: one server, or several in a group.

=============  ==================================================================================
module         noun
=============  ==================================================================================
`node`         one server process
`home`         what a trial asks of its Redis, whatever it is made of
`single`       one server
`group`        several, of which one takes over from another
`sentinel_group` a primary with replicas, and Sentinels that watch it
`cluster_group` a Redis Cluster
`modes`        what the server program that there is can be run as
=============  ==================================================================================
"""
