"""Lua, one atomic operation per file, with a typed method each."""

from bytewax_redis_state.scripts.scripts import SCRIPT_NAMES, Scripts, script_source

__all__ = ["SCRIPT_NAMES", "Scripts", "script_source"]
