"""A sink with state, wrapped so that we encode what the engine writes for its partitions."""

from __future__ import annotations

from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from bytewax_redis_state.codec import StateCodec

__all__ = ["EncodedSink", "EncodedSinkPartition"]


class EncodedSinkPartition(StatefulSinkPartition[Any, bytes]):
    """Pass everything to the user's partition, but encode its snapshots.

    :arg part: What the user's sink built.
    :arg part_key: Its name, which the encoding covers.
    :arg codec: Of the step.
    """

    def __init__(
        self, part: StatefulSinkPartition[Any, Any], part_key: str, codec: StateCodec
    ) -> None:
        self._part = part
        self._part_key = part_key
        self._codec = codec
        self.write_batch = part.write_batch  # type: ignore[method-assign]
        self.close = part.close  # type: ignore[method-assign]

    def write_batch(self, values: list[Any]) -> None:
        """Stand in for the user's method, which hides this one."""
        self._part.write_batch(values)

    def snapshot(self) -> bytes:
        """Encode the user's snapshot.

        :returns: The state, encoded.
        :raises EncodeError: If the state can't be encoded.
        """
        return self._codec.encode(self._part_key, self._part.snapshot())


class EncodedSink(FixedPartitionedSink[Any, bytes]):
    """Wrap a user's sink; items go to partitions as the user's ``part_fn`` says.

    On resume the decoded state of the last committed epoch goes to the user's ``build_part``;
    ``None`` stays ``None``. What was written after that epoch is written again.

    :arg sink: The user's.
    :arg codec: Of the step.
    """

    def __init__(self, sink: FixedPartitionedSink[Any, Any], codec: StateCodec) -> None:
        self._sink = sink
        self._codec = codec
        self.part_fn = sink.part_fn  # type: ignore[method-assign]

    def list_parts(self) -> list[str]:
        """Ask the user's sink, each time."""
        return self._sink.list_parts()

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> EncodedSinkPartition:
        """Build the user's partition from its decoded state.

        :arg step_id: Passed on.
        :arg for_part: Passed on.
        :arg resume_state: Encoded state; ``None`` on a first start.
        :returns: The partition, wrapped.
        :raises DecodeError: If the state can't be decoded.
        :raises TypeError: If the user's sink built something else.
        """
        state = None if resume_state is None else self._codec.decode(for_part, resume_state)
        part = self._sink.build_part(step_id, for_part, state)
        if not isinstance(part, StatefulSinkPartition):
            raise TypeError(
                "stateful sink partition must subclass `bytewax.outputs.StatefulSinkPartition`"
            )
        return EncodedSinkPartition(part, for_part, self._codec)
