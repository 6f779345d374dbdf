"""The fenced store: a flow in Redis, as one start of the flow may write it.

Invariant: whoever writes to cells or partitions says in whose name, by this object; and a script
that refuses a write, because another start has fenced what it would change, becomes a FencedError
here and in ``token.py``, nowhere else.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

import redis

from bytewax_redis_state.errors import FencedError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.token import Token, overtaken
from bytewax_redis_state.scripts import Scripts

__all__ = ["FencedStore"]


@dataclass(frozen=True)
class FencedStore:
    """A flow in Redis, and the token in whose name it is written.

    :arg client: Of the Redis that holds the flow.
    :arg scripts: Registered for that client.
    :arg keys: Of the flow.
    :arg incarnation: The flow's life in this Redis.
    :arg token: The start that writes.
    """

    client: redis.Redis
    scripts: Scripts
    keys: FlowKeys
    incarnation: str
    token: Token

    @property
    def generation(self) -> str:
        """The token as scripts compare it."""
        return str(self.token)

    def under(self, token: Token) -> FencedStore:
        """Give the same flow, written in the name of another start."""
        return replace(self, token=token)

    def overtaken(self, by: bytes | None = None) -> FencedError:
        """Say that another start has taken the flow over.

        :arg by: Token of the other start, where a script has told it.
        """
        if by is not None:
            return overtaken(self.token, by)
        return FencedError("another start of the flow overtook this one", "start again")

    def require_own(self, answers: Container[object], refusal: int | None = None) -> None:
        """Check that the scripts have found this start's token.

        :arg answers: One of each script.
        :arg refusal: What a script answers where it finds another start's token.
        :raises FencedError: If one has refused.
        """
        if refusal in answers:
            raise self.overtaken()
