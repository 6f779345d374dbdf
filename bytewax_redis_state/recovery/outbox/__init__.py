"""Bytewax's recovery files on the scratch disk, and our log table in them.

=================  =======================================================================
file               noun
=================  =======================================================================
outbox.py          the log table: made, read, pruned
engine_pickle.py   the pickle around a row's bytes, read without an unpickler
scratch.py         the private, locked folder of one execution
=================  =======================================================================
"""
