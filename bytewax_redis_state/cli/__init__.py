"""The command line ``bytewax-redis-state``: thin; parse, call, render."""
