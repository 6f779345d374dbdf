"""A model of a start: a search over the interleavings of takeover, append, fold and failover."""
