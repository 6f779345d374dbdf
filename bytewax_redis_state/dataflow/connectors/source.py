"""A source with state, wrapped so that we encode what the engine writes for its partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.connectors.gate import Gate, Holdable

__all__ = ["EncodedSource", "EncodedSourcePartition"]


class EncodedSourcePartition(Holdable, StatefulSourcePartition[Any, bytes]):
    """Pass everything to the user's partition, but encode its snapshots.

    The calls of every batch are the user's own bound methods: ``StopIteration`` and
    ``AbortExecution`` come through as raised.

    :arg part: What the user's source built.
    :arg part_key: Its name, which the encoding covers.
    :arg codec: Of the step.
    """

    def __init__(
        self, part: StatefulSourcePartition[Any, Any], part_key: str, codec: StateCodec
    ) -> None:
        super().__init__(part)
        self._part_key = part_key
        self._codec = codec
        self.close = part.close  # type: ignore[method-assign]

    def next_batch(self) -> Iterable[Any]:
        """Stand in for the user's method, which hides this one."""
        return self._part.next_batch()  # type: ignore[no-any-return]

    def snapshot(self) -> bytes:
        """Encode the user's snapshot.

        :returns: The state, encoded.
        :raises EncodeError: If the state can't be encoded.
        """
        return self._codec.encode(self._part_key, self._part.snapshot())


class EncodedSource(FixedPartitionedSource[Any, bytes]):
    """Wrap a user's source; partitions are read where and as the user's source says.

    On resume the decoded state of the last committed epoch goes to the user's ``build_part``;
    ``None`` stays ``None``.

    :arg source: The user's.
    :arg codec: Of the step.
    :arg gate: Holds the partitions back where it has to; ``None`` for never.
    """

    def __init__(
        self,
        source: FixedPartitionedSource[Any, Any],
        codec: StateCodec,
        gate: Gate | None = None,
    ) -> None:
        self._source = source
        self._codec = codec
        self._gate = gate

    def list_parts(self) -> list[str]:
        """Ask the user's source, each time."""
        return self._source.list_parts()

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> EncodedSourcePartition:
        """Build the user's partition from its decoded state.

        :arg step_id: Passed on.
        :arg for_part: Passed on.
        :arg resume_state: Encoded state; ``None`` on a first start.
        :returns: The partition, wrapped.
        :raises DecodeError: If the state can't be decoded.
        :raises TypeError: If the user's source built something else.
        """
        state = None if resume_state is None else self._codec.decode(for_part, resume_state)
        part = self._source.build_part(step_id, for_part, state)
        if not isinstance(part, StatefulSourcePartition):
            raise TypeError(
                "stateful source partition must subclass `bytewax.inputs.StatefulSourcePartition`"
            )
        encoded = EncodedSourcePartition(part, for_part, self._codec)
        if self._gate is not None:
            self._gate.add(encoded)
        return encoded
