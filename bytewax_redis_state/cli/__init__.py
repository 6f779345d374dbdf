"""The command line ``bytewax-redis-state``: thin; parse, call, render.

============  ===============================================================
file or room  noun
============  ===============================================================
main.py       the entry point, and the exit codes
parser.py     all commands and their options
`demo`        ``demo``: kill a flow, resume it, compare it with one left alone
`doctor`      ``doctor``: look at a recovery directory, a flow, a Redis user
`bench`       ``bench jobs`` and ``bench chaos``
============  ===============================================================
"""
