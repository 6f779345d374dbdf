"""Checkpoints of the state backend: all keys of one prefix to a file or to another prefix."""
