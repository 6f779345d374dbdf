"""``bytewax-redis-state bench``: run flows whose right results are known on this machine.

==========  ===================================================
file        noun
==========  ===================================================
command.py  ``bench``, and what to install where it is missing
jobs.py     ``bench jobs``: measure flows
chaos.py    ``bench chaos``: inject faults into flows
==========  ===================================================
"""
