"""What Redis holds of a flow.

===============  =========================================================================
file             noun
===============  =========================================================================
token.py         the fencing token: a generation's number and the ID of its start
fenced_store.py  a flow in Redis, and the token in whose name it is written
manifest.py      what a generation is made of
lease.py         who runs a process of the flow, and the thread that renews that
cells.py         a cell, and the hash beside its keys
journal.py       the log of deltas of one partition, and its progress
fold.py          a journal's epochs into the keyed state
state_scan.py    all keyed state, page by page
sweep.py         what starts that died have left
===============  =========================================================================
"""
