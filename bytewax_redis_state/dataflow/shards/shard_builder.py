"""The builder that the engine calls for the shards of one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.shards.deadlines import Lifetime
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.shards.shard import Shard
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests

__all__ = ["ShardBuilder"]


class ShardBuilder:
    """Build the shards of one step, from nothing or from restored states.

    :arg step_id: Of the user's core step.
    :arg logic: The user's builder; for a fast path its operator or configuration.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg requests: Ask for full snapshots where Redis came back empty; ``None`` for never.
    :arg kind: The class of the shards, called with the arguments before it.
    :arg handover: Holds the restored states.
    """

    def __init__(
        self,
        step_id: str,
        logic: Any,
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        requests: SnapshotRequests | None = None,
        kind: Callable[..., Shard] = ShardLogic,
        handover: Handover | None = None,
    ) -> None:
        self._shard_parts = step_id, logic, codec, lifetime, requests
        self._kind = kind
        self.handover = handover or Handover()

    def __call__(self, resume_state: bytes | None) -> Shard:
        """Build a shard.

        :arg resume_state: A ticket of the handover; ``None`` for a shard without restored state.
        :returns: A logic for the engine.
        :raises DecodeError: If no states wait for the ticket, or a state can't be decoded.
        """
        shard = self._kind(*self._shard_parts)
        if resume_state is not None:
            shard.restore(self.handover.take(resume_state))
        return shard
