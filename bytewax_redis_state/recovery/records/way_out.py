"""The way out of a loss: what a user can do where Redis has lost a part of a flow's state.

Invariant: each way that is named leads to a flow that runs again; a test follows each to its end.
"""

from __future__ import annotations

import shlex

from bytewax_redis_state.keys import FlowKeys

__all__ = ["way_out"]


def way_out(keys: FlowKeys) -> str:
    """Say what to do where a part of the flow's state is lost for good.

    :arg keys: Of the flow.
    :returns: The hint of an error.
    """
    pattern = shlex.quote(keys.pattern.decode())
    return (
        "restore Redis from a backup; or give the state up, so that the flow begins again without "
        "state: start it with another --namespace, or delete its keys first: redis-cli --scan "
        f"--pattern {pattern} | tr '\\n' '\\0' | xargs -0 redis-cli UNLINK"
    )
