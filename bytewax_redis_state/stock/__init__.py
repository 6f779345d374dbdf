"""Bytewax's own recovery directories: read, counted and judged."""
