"""Whether the state that Redis holds of a flow is whole: checked without running the flow.

=================  ==============================================================================
file               noun
=================  ==============================================================================
verification.py    the result of checking one flow, and the list of checks that make it
findings.py        what the checks found: errors, warnings, notes
checked_flow.py    the flow that is checked: where it is, and its manifest
manifest_check.py  the manifest: present, readable, of this version's format
other_keys.py      every key of the flow that is not a state: listed, and judged
lease_check.py     the leases and the generation counter: they tell which processes may write
journal_check.py   each partition's progress and journal
cell_check.py      each cell's `applied` hash, compared with the journals
census.py          all states: read, and compared with what the cells have counted
key_usage.py       which encryption and signing keys the values need
=================  ==============================================================================

Invariant: the doctor reads only. A flow may run meanwhile, so what a running flow changes is read
again before it is called wrong.
"""
