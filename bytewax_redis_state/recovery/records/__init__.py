"""What Redis holds of a flow.

===============  =========================================================================
file             noun
===============  =========================================================================
token.py         the fencing token: a generation's number and the ID of its start
fenced_store.py  a flow in Redis, and the token in whose name it is written
manifest.py      the manifest, read and written: what a generation is made of
lease.py         the lease of a process of the flow, and the thread that renews it
cells.py         a cell, and the hash beside its keys
journal.py       the log of deltas of one partition
progress.py      how far a partition is, and what its journal has to hold
fold.py          the fold: a journal's epochs go into the keyed state
state_scan.py    all keyed state, page by page
remains.py       keys of a flow that Redis does not know any longer
sweep.py         the deletion of keys that dead starts have left behind
fields.py        the fields of a record, each checked when it is read
way_out.py       what to do where a part of the state is lost
===============  =========================================================================
"""
