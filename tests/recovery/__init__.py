"""Tests of the path between Bytewax's files and Redis."""
