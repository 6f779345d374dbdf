"""What fast shards have in common that hold nothing of a key but its state.

Invariant: what is written equals what the ``snapshot()`` of Bytewax's own logic gives: a deep copy.
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
        """Copy a state, where the copy could be another one."""
        return held if is_flat(held) else copy.deepcopy(held)

    def encoded(self, keys: Collection[str], until: int | None) -> dict[str, bytes]:
        """Encode the states of held keys, those of scalars without a call for each."""
        states = zip(keys, map(self._held.__getitem__, keys), strict=True)
        return self._codec.encode_all(states, until, self._encode_copy)

    def _encode_copy(self, key: str, state: Any, until: int | None) -> bytes:
        try:
            state = self.state_of(state)
        except Exception as error:
            raise self.failure("StatefulBatchLogic.snapshot", key) from error
        return self._codec.encode(key, state, until)
