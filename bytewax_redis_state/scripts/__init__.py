"""Lua, one atomic operation per file, with a typed method each."""
