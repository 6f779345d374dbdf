"""One trip of commands to Redis and back: to a single server, or to the nodes of a cluster."""
