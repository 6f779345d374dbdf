"""The rewrite of flows, against stock Bytewax."""
