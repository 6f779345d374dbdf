"""Shards of operators whose logic is known, without a logic object per key."""
