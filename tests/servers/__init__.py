"""Real servers in groups: a primary that Sentinels watch, and a Redis Cluster; on loopback."""
