"""Batches of states to bytes: the changes of an epoch in a shard.

Invariant: each envelope equals the one of :meth:`.StateCodec.encode`, bit by bit. States that are
not flat are left to that method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

from bytewax_redis_state.codec.compact_state import CompactState, pack_compact_state
from bytewax_redis_state.codec.envelope import MSGPACK, MSGPACK_TUPLE, plain_start
from bytewax_redis_state.codec.exactness import is_flat
from bytewax_redis_state.codec.extension_types import SCALARS
from bytewax_redis_state.codec.packing import Packing

__all__ = ["seal_plain_all"]


def seal_plain_all(
    packing: Packing,
    states: Iterable[tuple[str, Any]],
    deadline: int | None,
    encode: Callable[[str, Any, int | None], bytes],
) -> dict[str, bytes]:
    """Encode states whose envelopes are neither signed nor encrypted nor compressed.

    :arg packing: How values become msgpack.
    :arg states: State key and value; an item is taken when the one before is encoded.
    :arg deadline: Of all states.
    :arg encode: Encodes a state that is not flat or can't be packed.
    :returns: State key to envelope.
    """
    sealed: dict[str, bytes] = {}
    starts = plain_start(MSGPACK, deadline), plain_start(MSGPACK_TUPLE, deadline)
    pack = packing.flat_packer()
    for key, value in states:
        kind = type(value)
        is_compact = kind is CompactState and SCALARS.issuperset(map(type, value.fields))
        if not (kind in SCALARS or is_compact or is_flat(value)):
            sealed[key] = encode(key, value, deadline)
            continue
        try:
            if is_compact:
                payload = pack_compact_state(value, pack)
            else:
                payload = pack([*value] if kind is tuple else value)
        except Exception:  # noqa: BLE001 - encode() tries pickle, or raises the right error
            pack = packing.flat_packer()
            sealed[key] = encode(key, value, deadline)
            continue
        head, head_sum, field = starts[kind is tuple]
        body = field + payload
        check_sum = crc32(body, crc32(key.encode(), head_sum))
        sealed[key] = head + check_sum.to_bytes(4, "little") + body
    return sealed
