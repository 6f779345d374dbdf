"""A source with state, wrapped so that we encode the snapshots of its partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.connectors.encoded_connector import (
    EncodedConnector,
    EncodedPartition,
)
from bytewax_redis_state.dataflow.connectors.gate import Gate, Holdable

__all__ = ["EncodedSource", "EncodedSourcePartition"]


class EncodedSourcePartition(EncodedPartition, Holdable, StatefulSourcePartition[Any, bytes]):
    """Pass everything to the user's partition, but encode its snapshots.

    The engine calls the user's own bound methods for every batch (see :class:`.Holdable`), so that
    ``StopIteration`` and ``AbortExecution`` reach it as the user raised them.

    :arg part: The partition that the user's source built.
    :arg part_key: Its name, which the encoding covers.
    :arg codec: Of the step.
    """

    def __init__(
        self, part: StatefulSourcePartition[Any, Any], part_key: str, codec: StateCodec
    ) -> None:
        EncodedPartition.__init__(self, part, part_key, codec)
        Holdable.__init__(self, part)

    def next_batch(self) -> Iterable[Any]:
        """Stand in for the user's method, which hides this one."""
        return self._part.next_batch()  # type: ignore[no-any-return]


class EncodedSource(EncodedConnector, FixedPartitionedSource[Any, bytes]):
    """Wrap a user's source; partitions are read where and as the user's source says.

    On resume the decoded state of the last committed epoch goes to the user's ``build_part``;
    ``None`` stays ``None``.

    :arg source: The user's.
    :arg codec: Of the step.
    :arg gate: Holds the partitions back while state can't be shipped; ``None`` for never.
    """

    kind = "source"
    part_class = StatefulSourcePartition

    def __init__(
        self,
        source: FixedPartitionedSource[Any, Any],
        codec: StateCodec,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(source, codec)
        self._gate = gate

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> EncodedSourcePartition:
        """Build the user's partition and wrap it; as :meth:`.build_user_part`."""
        part = self.build_user_part(step_id, for_part, resume_state)
        encoded = EncodedSourcePartition(part, for_part, self._codec)
        if self._gate is not None:
            self._gate.add(encoded)
        return encoded
