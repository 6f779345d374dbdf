"""The part that fast shards share if they process items one by one, in the order of arrival.

Invariant: a key that gets an item is decoded before, and is in the delta of the epoch.
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
        """Read the operator's functions and modes.

        :arg step: The operator.
        """

    @abstractmethod
    def process(self, pairs: Pairs, items: Items) -> None:
        """Process items.

        :arg pairs: The items; the states of their keys are decoded.
        :arg items: The output is added to it.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """

    def held_of(self, state: Any) -> Any:
        """Turn a decoded state into the value that ``_held`` has for a key."""
        return state

    def on_batch(self, values: list[Pairs]) -> tuple[Iterable[Items], bool]:
        """Process each item.

        :arg values: This shard's part of each batch from upstream.
        :returns: One list of items, or nothing; a shard is never discarded.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """
        items: Items = []
        for pairs in values:
            if self._asleep or self._lifetime is not None:
                self._wake({key for key, _value in pairs})
            self.process(pairs, items)
            self._dirty.update([key for key, _value in pairs])
        return ((items,) if items else NOTHING), False

    def _wake(self, keys: set[str]) -> None:
        """Expire keys whose deadline has passed, then decode the sleeping ones."""
        self.expire_passed(keys)
        asleep, decode = self._asleep, self._codec.decode
        for key in asleep.keys() & keys:
            self._held[key] = self.held_of(decode(key, asleep.pop(key)))
