"""Redis servers: clients, errors of redis-py as ours, checks at a start, the embedded server.

=====================  ====================================================================
file                   noun
=====================  ====================================================================
client.py              the client of a single server, of Sentinels' primary or of a cluster
cluster_client.py      the client of a Redis Cluster
slots.py               which node of a cluster serves which key
sentinel.py            connections to the primary that Sentinels name
command_packer.py      commands as bytes
credentials.py         user and password from a function, for each connection
translation.py         errors of redis-py as ours
probe.py               what a server is, and whether it can keep state
replicas.py            writes that all replicas have confirmed
argument_limit.py      whether a server takes an argument of a size
acl.py                 the least ACL rules for each role
binary.py              the server program: on ``PATH`` or in a Python package
embedded.py            an embedded server: find it or start it
embedded_directory.py  its directory: files, lock, record
keeper.py              the process that owns it
=====================  ====================================================================
"""
