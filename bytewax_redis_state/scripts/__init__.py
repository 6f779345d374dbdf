"""Lua, one atomic operation per file, with a typed method each."""

from bytewax_redis_state.scripts.scripts import (
    NUMBER_CHECKS,
    SCRIPT_NAMES,
    Scripts,
    script_source,
)
from bytewax_redis_state.scripts.state_scripts import STATE_SCRIPT_NAMES, StateScripts

__all__ = [
    "NUMBER_CHECKS",
    "SCRIPT_NAMES",
    "STATE_SCRIPT_NAMES",
    "Scripts",
    "StateScripts",
    "script_source",
]
