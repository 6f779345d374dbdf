"""Packing: values of exact types to msgpack and back.

msgpack's own types are packed by its C code. For every other type it calls back, and the data of
that value is packed by a packer of the next level, because a packer can't be used while it packs.

Invariant: a packer is used by one thread at a time, which takes it out of its pool meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Protocol

import msgpack

from bytewax_redis_state.codec.compact_state import (
    COMPACT_FORMAT,
    COMPACT_STATE,
    CompactState,
    CompactStateReader,
)
from bytewax_redis_state.codec.exactness import check_exact, is_flat
from bytewax_redis_state.codec.extension_types import BYTEARRAY, READERS, TYPE_FORMATS, extension
from bytewax_redis_state.codec.type_format import NotPackable, Pack, TypeFormat, Unpack, read_list
from bytewax_redis_state.codec.user_classes import format_of
from bytewax_redis_state.errors import DecodeError

__all__ = ["Classes", "Packing"]

_LEVELS = 64
"""Levels of extension types inside each other that a value may have, on writing and on reading."""
_QUICK_LEVELS = 8
"""Levels that are read by ``unpackb``, which takes 43 kB of the C stack for each; a worker of the
engine has 2 MiB. Deeper ones are read by an ``Unpacker``, which keeps the same on the heap."""
_DEEP, _DEEP_BYTES = 8, 1024 * 1024
"""A level below the first has at most the second: each copies the data of all below it."""
_KEPT_BYTES = 1024 * 1024  # a packer keeps its buffer: one that grew larger is dropped


_FORGED = "no writer makes such a value: it is damaged or forged; restore it from a copy"


_Readers = Mapping[int, Callable[[bytes, Unpack], Any]]


class Classes(Protocol):
    """Reads the users' classes in a value: rebuilds them, or gives stand-ins."""

    @property
    def readers(self) -> _Readers:
        """Extension type to reader."""

    def find(self, module_name: str, qualname: str) -> Any:
        """Find a class of Bytewax by its name."""


class _TypeFormats(dict[type, TypeFormat | None]):
    """The format of every type met so far; ``None`` where the type is foreign."""

    def __missing__(self, cls: type) -> TypeFormat | None:
        type_format = self[cls] = format_of(cls)
        return type_format


def _without_bytearrays(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_without_bytearrays(part) for part in value]
    if kind is dict:
        return {key: _without_bytearrays(part) for key, part in value.items()}
    return extension((BYTEARRAY, bytes(value))) if kind is bytearray else value


class _LevelPacker:
    """Pack values at one depth of nested extension types.

    :arg formats: The format of every type.
    :arg prepare: Replaces parts that msgpack would pack as another type; ``None`` for no change.
    :arg depth: The number of levels that are left below this one.
    """

    def __init__(
        self,
        formats: _TypeFormats,
        prepare: Callable[[Any], Any] | None = None,
        depth: int = _LEVELS,
    ) -> None:
        self._formats = formats
        self._prepare = prepare
        self._depth = depth
        self._pool: list[Any] = []

    @cached_property
    def _pack_inner(self) -> Pack:
        if not self._depth:
            return self._refuse
        return _LevelPacker(self._formats, self._prepare, self._depth - 1).pack

    @staticmethod
    def _refuse(value: object) -> bytes:
        raise NotPackable(value, f"is nested deeper than {_LEVELS} levels")

    def pack(self, value: Any) -> bytes:
        """Pack one value; a packer that failed is not used again."""
        if self._prepare is not None:
            value = self._prepare(value)
        try:
            packer = self._pool.pop()
        except IndexError:
            packer = self.packer()
        data: bytes = packer.pack(value)
        if len(data) < _KEPT_BYTES:
            self._pool.append(packer)
        elif self._depth < _LEVELS - _DEEP and len(data) > _DEEP_BYTES:
            raise NotPackable(
                value, f"takes more than {_DEEP_BYTES} bytes below {_DEEP} levels of nesting"
            )
        return data

    def packer(self) -> Any:
        """Make a packer that is not in the pool."""
        return msgpack.Packer(default=self._default, strict_types=True)

    def _default(self, value: Any) -> Any:
        type_format = self._formats[type(value)]
        if type_format is None:
            raise NotPackable(value, "is of a foreign class")
        return extension((type_format.code, type_format.write(value, self._pack_inner)))


class Packing:
    """Pack values exactly, or refuse them.

    :arg classes: Reads the user's classes.
    """

    def __init__(self, classes: Classes) -> None:
        self._formats = _TypeFormats({**TYPE_FORMATS, CompactState: COMPACT_FORMAT})
        self._plain = _LevelPacker(self._formats)
        self._lowering = _LevelPacker(self._formats, _without_bytearrays)
        self._compact = CompactStateReader(classes.find)
        readers: _Readers = {**READERS, **classes.readers, COMPACT_STATE: self._compact}
        self.unpack = _unpack_at_every_level(readers)

    def pack(self, value: Any) -> bytes:
        """Pack a value.

        :arg value: Any value.
        :returns: One msgpack value.
        :raises NotPackable: If msgpack can't hold it exactly.
        """
        level = self._plain
        if not is_flat(value) and check_exact(value, self._formats):
            level = self._lowering
        try:
            return level.pack(value)
        except UnicodeEncodeError:
            raise NotPackable(value, "holds a string that is no UTF-8 (a lone surrogate)") from None
        except (ValueError, OverflowError, RecursionError) as error:
            raise NotPackable(value, f"is too large for msgpack ({error})") from error

    def flat_packer(self) -> Pack:
        """Make a function that packs flat values as :meth:`pack` does, for one thread.

        :returns: The function, for values for which :func:`.is_flat` is true; a tuple must be given
            as a list. After its first error it must not be used again.
        """
        pack: Pack = self._plain.packer().pack
        return pack

    def pack_tuple(self, value: tuple[Any, ...]) -> bytes:
        """Pack a tuple as an array; the envelope says that it stands for a tuple.

        :raises NotPackable: If msgpack can't hold it exactly.
        """
        return self.pack(list(value))

    def unpack_tuple(self, data: bytes) -> tuple[Any, ...]:
        """Read the bytes of :meth:`pack_tuple`."""
        return tuple(read_list(data, self.unpack, "a tuple"))

    def whole(self, value: Any) -> Any:
        """Give the value that a reader gets: for a compact state Bytewax's snapshot."""
        return self._compact.whole(value) if type(value) is CompactState else value


def _unpack_at_every_level(readers: _Readers) -> Unpack:
    """Make the function that unpacks a value, and for each level below it the one of that level.

    A level knows only the one below it, so counting levels costs nothing and needs no state that
    threads would share.
    """
    unpack: Unpack = _refuse_deeper
    for level in range(_LEVELS, -1, -1):
        hook = _extension_hook(readers, unpack)
        if level < _QUICK_LEVELS:
            unpack = partial(msgpack.unpackb, raw=False, strict_map_key=False, ext_hook=hook)
        else:
            unpack = partial(_unpack_on_heap, hook, level)
    return unpack


def _extension_hook(readers: _Readers, unpack: Unpack) -> Callable[[int, bytes], Any]:
    def read(code: int, data: bytes) -> Any:
        reader = readers.get(code)
        if reader is None:
            raise DecodeError(
                f"extension type {code}: written by a newer version",
                "upgrade bytewax-redis-state to read it",
            )
        return reader(data, unpack)

    return read


def _unpack_on_heap(hook: Callable[[int, bytes], Any], level: int, data: bytes) -> Any:
    if level > _DEEP and len(data) > _DEEP_BYTES:
        raise DecodeError(
            f"it has {len(data)} bytes below {level} levels of nesting, and at most {_DEEP_BYTES} "
            f"are read below {_DEEP}",
            _FORGED,
        )
    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=False, ext_hook=hook, max_buffer_size=len(data)
    )
    unpacker.feed(data)
    value = unpacker.unpack()
    if unpacker.tell() != len(data):
        raise DecodeError("bytes are left after a value inside it", _FORGED)
    return value


def _refuse_deeper(_: bytes) -> Any:
    raise DecodeError(f"it is nested deeper than {_LEVELS} levels", _FORGED)
