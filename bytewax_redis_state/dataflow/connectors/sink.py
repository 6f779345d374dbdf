"""A sink with state, wrapped so that we encode the snapshots of its partitions."""

from __future__ import annotations

from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.connectors.encoded_connector import (
    EncodedConnector,
    EncodedPartition,
)

__all__ = ["EncodedSink", "EncodedSinkPartition"]


class EncodedSinkPartition(EncodedPartition, StatefulSinkPartition[Any, bytes]):
    """Pass everything to the user's partition, but encode its snapshots.

    :arg part: The partition that the user's sink built.
    :arg part_key: Its name, which the encoding covers.
    :arg codec: Of the step.
    """

    def __init__(
        self, part: StatefulSinkPartition[Any, Any], part_key: str, codec: StateCodec
    ) -> None:
        super().__init__(part, part_key, codec)
        # The user's own bound method, so that a batch costs no call more than without us.
        self.write_batch = part.write_batch  # type: ignore[method-assign]

    def write_batch(self, values: list[Any]) -> None:
        """Stand in for the user's method, which hides this one."""
        self._part.write_batch(values)


class EncodedSink(EncodedConnector, FixedPartitionedSink[Any, bytes]):
    """Wrap a user's sink; items go to partitions as the user's ``part_fn`` says.

    On resume the decoded state of the last committed epoch goes to the user's ``build_part``;
    ``None`` stays ``None``. Items that were written after that epoch are written again.

    :arg sink: The user's.
    :arg codec: Of the step.
    """

    kind = "sink"
    part_class = StatefulSinkPartition

    def __init__(self, sink: FixedPartitionedSink[Any, Any], codec: StateCodec) -> None:
        super().__init__(sink, codec)
        # The engine calls it per item, and other operators may read it from the sink.
        self.part_fn = sink.part_fn  # type: ignore[method-assign]

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> EncodedSinkPartition:
        """Build the user's partition and wrap it; as :meth:`.build_user_part`."""
        part = self.build_user_part(step_id, for_part, resume_state)
        return EncodedSinkPartition(part, for_part, self._codec)
