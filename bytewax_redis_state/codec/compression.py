"""Compression of payloads by zstd or zlib, and decompression within a limit.

======  =====  ==========================================
offset  bytes  holds
======  =====  ==========================================
0       1      method: 1 is zlib, 2 is zstd
1       4      size of the payload before compression, big-endian
5       rest   one zlib stream, or one zstd frame
======  =====  ==========================================

Invariant: reading makes no more bytes than the size says, and the size is checked against a limit
first, so that a few forged bytes can't fill the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NoReturn

from bytewax_redis_state.errors import ConfigError, DecodeError

__all__ = ["HEAD_BYTES", "METHODS", "Compressor", "Inflater"]

HEAD_BYTES = 5
METHODS = {"zlib": 1, "zstd": 2}
_ZLIB_LEVEL = 1
_ZSTD_LEVEL = 3


def _zstandard() -> Any:
    import zstandard

    return zstandard


class Compressor:
    """Compress payloads; any number of threads may use it.

    :arg method: ``zstd`` or ``zlib``.
    :arg above: Payloads of up to this size stay as they are.
    :arg limit: Payloads above this size stay as they are: a reader with the same settings would
        refuse to decompress them.
    :raises ConfigError: If the method is unknown, or its package is missing.
    """

    def __init__(self, method: str, above: int, limit: int) -> None:
        if method not in METHODS:
            raise ConfigError(f"compression is {method!r}", "give 'zstd', 'zlib' or None")
        self._head = bytes([METHODS[method]])
        self._above = above
        self._limit = limit
        self._pool: list[Any] = []
        self._squeeze: Callable[[bytes], bytes] = self._zlib if method == "zlib" else self._zstd
        if method == "zstd":
            try:
                self._pool.append(_zstandard().ZstdCompressor(level=_ZSTD_LEVEL))
            except ImportError:
                raise ConfigError(
                    "compression is 'zstd', and the package zstandard is not installed",
                    "pip install 'bytewax-redis-state[zstd]', or use 'zlib'",
                ) from None

    def compress(self, payload: bytes) -> bytes | None:
        """Compress a payload.

        :arg payload: Any bytes.
        :returns: Bytes for :meth:`Inflater.inflate`; ``None`` where they would not be smaller.
        """
        size = len(payload)
        if not self._above < size <= self._limit:
            return None
        squeezed = self._squeeze(payload)
        if len(squeezed) + HEAD_BYTES >= size:
            return None
        return b"".join((self._head, size.to_bytes(4, "big"), squeezed))

    @staticmethod
    def _zlib(payload: bytes) -> bytes:
        return zlib.compress(payload, _ZLIB_LEVEL)

    def _zstd(self, payload: bytes) -> bytes:
        # A zstd compressor is for one thread at a time; it is out of the pool meanwhile.
        try:
            compressor = self._pool.pop()
        except IndexError:
            compressor = _zstandard().ZstdCompressor(level=_ZSTD_LEVEL)
        squeezed: bytes = compressor.compress(payload)
        self._pool.append(compressor)
        return squeezed


class Inflater:
    """Decompress payloads; any number of threads may use it.

    :arg limit: The largest size of a decompressed payload, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pool: list[Any] = []

    def inflate(self, data: bytes) -> bytes:
        """Decompress a payload.

        :arg data: From :meth:`Compressor.compress`.
        :returns: The payload.
        :raises DecodeError: If it is damaged, or claims to be larger than the limit.
        """
        method, size = data[:1], int.from_bytes(data[1:HEAD_BYTES], "big")
        if len(data) <= HEAD_BYTES:
            _refuse("it ends inside its header")
        if size > self._limit:
            raise DecodeError(
                f"is compressed from {size} bytes, and inflate_limit is {self._limit}",
                "raise inflate_limit if you trust who wrote it",
            )
        if method == b"\1":
            return _zlib_payload(data[HEAD_BYTES:], size)
        if method == b"\2":
            return self._zstd_payload(data[HEAD_BYTES:], size)
        raise DecodeError(
            f"is compressed by method {data[0]}: written by a newer version",
            "upgrade bytewax-redis-state to read it",
        )

    def _inflater(self, zstandard: Any) -> Any:
        # For one thread at a time, as a compressor.
        try:
            return self._pool.pop()
        except IndexError:
            return zstandard.ZstdDecompressor()

    def _zstd_payload(self, frame: bytes, size: int) -> bytes:
        try:
            zstandard = _zstandard()
        except ImportError:
            raise DecodeError(
                "is compressed by zstd, and the package zstandard is not installed",
                "pip install 'bytewax-redis-state[zstd]'",
            ) from None
        try:
            # The decompressor makes as many bytes as the frame says, so that is checked first.
            if zstandard.frame_content_size(frame) != size:
                _refuse("its size is not what its header says")
            inflater = self._inflater(zstandard)
            payload: bytes = inflater.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            _refuse(str(error))
        self._pool.append(inflater)
        if len(payload) != size:
            _refuse("its size is not what its header says")
        return payload


def _zlib_payload(stream: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        payload = inflater.decompress(stream, size + 1)
    except zlib.error as error:
        _refuse(str(error))
    if len(payload) != size or not inflater.eof or inflater.unused_data:
        _refuse("its size is not what its header says")
    return payload


def _refuse(why: str) -> NoReturn:
    raise DecodeError(f"can't be decompressed: {why}", "it is damaged; restore it from a copy")
