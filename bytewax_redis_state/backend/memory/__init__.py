"""The memory backend: the contract of a state backend without a server, for tests.

==================  ===========================================================================
file                noun
==================  ===========================================================================
store.py            records, locks and markers, and the mutex that guards them
counted_values.py   values that are counted as they are encoded and decoded
lock.py             a lock in the store
transaction.py      a transaction on the store
key_range.py        the keys of one prefix, for dumps and restores
aio.py              the backend for coroutines
memory_backend.py   the backend for blocking code
==================  ===========================================================================
"""
