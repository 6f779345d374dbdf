"""One round trip of commands to Redis: to a single server, or to the nodes of a cluster.

==================  ===========================================================================
file                noun
==================  ===========================================================================
round_trip.py       the error of a round trip that brought no replies
connection_pool.py  the connections to one server, blocking and for asyncio
routing.py          which node of a cluster gets which command, and redirections
cluster_pool.py     the connections to all nodes of a cluster, blocking and for asyncio
==================  ===========================================================================
"""
