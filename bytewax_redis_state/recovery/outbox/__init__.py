"""Bytewax's recovery files on the scratch disk, and our log table in them."""
