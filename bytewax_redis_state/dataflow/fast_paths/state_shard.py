"""The part that fast shards share if a key's state is all that they hold of it.

Invariant: the written state equals the ``snapshot()`` of Bytewax's own logic, which is a deep copy.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from bytewax_redis_state.codec.exactness import is_flat
from bytewax_redis_state.dataflow.fast_paths.pair_shard import PairShard

__all__ = ["StateShard"]


class StateShard(PairShard):
    """Hold the states themselves: ``_held`` is state key to state."""

    def state_of(self, held: Any) -> Any:
        """Copy a state, unless it is flat: then the copy could not be told from it."""
        return held if is_flat(held) else copy.deepcopy(held)

    def encoded(self, keys: Collection[str], until: int | None) -> dict[str, bytes]:
        """Encode the states of held keys; flat ones without a Python call for each."""
        states = zip(keys, map(self._held.__getitem__, keys), strict=True)
        return self._codec.encode_all(states, until, self._encode_copy)

    def _encode_copy(self, key: str, state: Any, until: int | None) -> bytes:
        try:
            state = self.state_of(state)
        except Exception as error:
            raise self.failure("StatefulBatchLogic.snapshot", key) from error
        return self._codec.encode(key, state, until)
