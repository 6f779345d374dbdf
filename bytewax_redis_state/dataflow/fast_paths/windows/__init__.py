"""Shards of window operators over the event clock: one object per key."""
