"""What fast shards have in common that work items off as they come, one by one.

Invariant: a key whose item comes is awake, and is written with the epoch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.shards.deadlines import Lifetime
from bytewax_redis_state.dataflow.shards.routing import Pairs
from bytewax_redis_state.dataflow.shards.shard import NOTHING, Items, Shard
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests

__all__ = ["PairShard"]


class PairShard(Shard):
    """Run an operator on one shard's items.

    :arg step_id: Of the user's core step; errors name it.
    :arg step: The operator, with its functions or modes.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg requests: Ask for full snapshots where Redis came back empty; ``None`` for never.
    """

    def __init__(
        self,
        step_id: str,
        step: Any,
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        requests: SnapshotRequests | None = None,
    ) -> None:
        super().__init__(step_id, codec, lifetime, requests)
        self.configure(step)

    @abstractmethod
    def configure(self, step: Any) -> None:
        """Take from the operator what is needed of it."""

    @abstractmethod
    def take(self, pairs: Pairs, items: Items) -> None:
        """Work items off.

        :arg pairs: The items; what is held of their keys is decoded.
        :arg items: Gets what is put out.
        :raises BytewaxRuntimeError: If one fails; names the user's step and the key.
        """

    def held_of(self, state: Any) -> Any:
        """Give what to hold of a key for its decoded state."""
        return state

    def on_batch(self, values: list[Pairs]) -> tuple[Iterable[Items], bool]:
        """Work each item off.

        :arg values: What each batch from upstream holds for this shard.
        :returns: One list of items, or nothing; a shard is never discarded.
        :raises BytewaxRuntimeError: If one fails; names the user's step and the key.
        """
        items: Items = []
        for pairs in values:
            if self._asleep or self._lifetime is not None:
                self._wake({key for key, _value in pairs})
            self.take(pairs, items)
            self._dirty.update([key for key, _value in pairs])
        return ((items,) if items else NOTHING), False

    def _wake(self, keys: set[str]) -> None:
        """Let what has passed its deadline expire, and decode the states that are needed."""
        self.expire_passed(keys)
        asleep, decode = self._asleep, self._codec.decode
        for key in asleep.keys() & keys:
            self._held[key] = self.held_of(decode(key, asleep.pop(key)))
