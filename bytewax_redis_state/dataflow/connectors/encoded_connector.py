"""The part that wrapped sources and sinks share: encode snapshots, and decode them on resume.

Invariant: the engine sees what it would see without the wrapper, but for the bytes of a snapshot.
One call of the engine is one call of the user's method, and partitions are listed again each time.
"""

from __future__ import annotations

from typing import Any, ClassVar

from bytewax_redis_state.codec import StateCodec

__all__ = ["EncodedConnector", "EncodedPartition"]


class EncodedPartition:
    """Encode the snapshots of a user's partition.

    :arg part: The partition that the user's source or sink built.
    :arg part_key: Its name, which the encoding covers.
    :arg codec: Of the step.
    """

    def __init__(self, part: Any, part_key: str, codec: StateCodec) -> None:
        self._part = part
        self._part_key = part_key
        self._codec = codec
        self.close = part.close

    def snapshot(self) -> bytes:
        """Encode the user's snapshot.

        :returns: The state, encoded. A state of ``None`` is encoded, too: the engine writes a row
            for it, and the user's ``build_part`` gets ``None`` again.
        :raises EncodeError: If the state can't be encoded, or is too large for Redis.
        """
        data = self._codec.encode(self._part_key, self._part.snapshot())
        self._codec.require_fit(self._part_key, data)
        return data


class EncodedConnector:
    """List and build the partitions of a user's source or sink.

    :arg connector: The user's source or sink.
    :arg codec: Of the step.
    """

    kind: ClassVar[str]
    """``source`` or ``sink``, as the engine's errors call it."""
    part_class: ClassVar[type[Any]]
    """The class that the engine requires of a partition."""

    def __init__(self, connector: Any, codec: StateCodec) -> None:
        self._connector = connector
        self._codec = codec

    def list_parts(self) -> list[str]:
        """Ask the user's source or sink for its partitions, each time."""
        return self._connector.list_parts()  # type: ignore[no-any-return]

    def build_user_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> Any:
        """Build the user's partition from its decoded state.

        :arg step_id: Passed on.
        :arg for_part: Passed on.
        :arg resume_state: Encoded state; ``None`` on a first start.
        :returns: The user's partition.
        :raises DecodeError: If the state can't be decoded.
        :raises TypeError: If the user's source or sink built something else than a partition; in
            the engine's words, because the engine sees only the wrapper.
        """
        state = None if resume_state is None else self._codec.decode(for_part, resume_state)
        part = self._connector.build_part(step_id, for_part, state)
        if not isinstance(part, self.part_class):
            name = f"{self.part_class.__module__}.{self.part_class.__qualname__}"
            raise TypeError(f"stateful {self.kind} partition must subclass `{name}`")
        return part
