"""The builder that the engine calls for the shards of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from bytewax.operators import StatefulBatchLogic

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.codec.delta import pack_delta, unpack_piece
from bytewax_redis_state.dataflow.deadlines import Lifetime
from bytewax_redis_state.dataflow.logics import ShardLogic
from bytewax_redis_state.dataflow.roll import Roll
from bytewax_redis_state.dataflow.shard import NOTHING, Shard

__all__ = ["HeldPiece", "ShardBuilder"]


class HeldPiece(StatefulBatchLogic[Any, Any, bytes]):
    """Stand for a piece of a restored shard that waits for the last one; ends with the input."""

    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        """Never called: nothing is routed to a piece."""
        return NOTHING, StatefulBatchLogic.DISCARD

    def on_eof(self) -> tuple[Iterable[Any], bool]:
        """End."""
        return NOTHING, StatefulBatchLogic.DISCARD

    def snapshot(self) -> bytes:
        """Give an empty delta; the recovery side ignores it."""
        return pack_delta({})


class ShardBuilder:
    """Build the shards of one step, from nothing or from restored pieces.

    On resume the pieces of a shard are held until the last one comes, also where several workers
    of this process load at once.

    :arg step_id: Of the user's core step.
    :arg logic: What the shards run: the user's builder, or what a fast kind of shard takes.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg roll: Where the shards are entered; ``None`` for nowhere.
    :arg kind: Makes a shard of the arguments before it.
    """

    def __init__(
        self,
        step_id: str,
        logic: Any,
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        roll: Roll | None = None,
        kind: Callable[..., Shard] = ShardLogic,
    ) -> None:
        self._shard_parts = step_id, logic, codec, lifetime, roll
        self._kind = kind
        self._held: dict[int, list[dict[str, bytes]]] = {}
        self._lock = Lock()

    def __call__(self, resume_state: bytes | None) -> Shard | HeldPiece:
        """Build a shard, or hold a piece of one.

        :arg resume_state: A packed piece; ``None`` for a shard without restored state.
        :returns: A logic for the engine.
        :raises DecodeError: If the piece or a state in it can't be decoded.
        """
        pieces: list[dict[str, bytes]] = []
        if resume_state is not None:
            piece = unpack_piece(resume_state)
            with self._lock:
                if piece.more:
                    self._held.setdefault(piece.shard, []).append(piece.states)
                    return HeldPiece()
                pieces = [*self._held.pop(piece.shard, []), piece.states]
        shard = self._kind(*self._shard_parts)
        for states in pieces:
            shard.restore(states)
        return shard
