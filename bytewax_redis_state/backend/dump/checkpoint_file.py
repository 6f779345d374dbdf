"""A checkpoint file: the raw bytes of a namespace, portable between servers.

=================  ================================================================================
bytes              hold
=================  ================================================================================
8                  ``89 42 57 52 53 0D 0A 1A``: text mode and cut-off transfers damage them visibly
1                  format version; this is version 1
frames             first one ``H``, then any number of ``B``, last one ``E``; nothing after it
=================  ================================================================================

A frame is its kind (1 byte), the length of its payload (4 bytes, little-endian), a CRC-32 (4
bytes, little-endian) and the payload. The CRC covers kind, length and payload, and starts from
the one of the frame before, so that frames that were dropped, doubled or swapped are noticed at
the spot. The first one starts from the CRC of the nine bytes before it.

``H``, msgpack: ``compression`` (``zstd`` or ``zlib``), ``prefix``, ``created`` (milliseconds since
1970, of the server's clock), ``server`` (flavour and version), ``writer`` (of this package).

``B``: the length of the unpacked block (4 bytes, little-endian), then compressed msgpack
``[at, keys, values, ttls]``: the server's clock at the reading, keys without prefix, values as
Redis held them, and per key the milliseconds it had left, -1 for no end; ``ttls`` is empty where
no key has one.

``E``, msgpack: ``records``, ``expiring`` (how many of them have a TTL), ``vanished`` (keys that
were listed and had no value when they were read), ``size`` (bytes of keys and values), ``digest``
(SHA-256 of all bytes before this frame).

A block of more than 32 MiB is at most a hundred times as large as its compressed bytes: where it
would be smaller, the writer puts zero bytes behind them. So a reader need not believe a size that
the file does not back: it takes some three times 32 MiB, or 300 times the bytes of the largest
frame, whatever the file says.

Invariant: a reader gives no record of a block whose check sum disagrees, and raises unless the last
frame is there and agrees with all frames before it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import msgpack

from bytewax_redis_state.errors import CheckpointDamagedError, CheckpointError

__all__ = [
    "CheckpointInfo",
    "CheckpointReader",
    "CheckpointWriter",
    "Counts",
    "Header",
    "Page",
    "best_compression",
    "read_info",
]

MAGIC = b"\x89BWRS\r\n\x1a"
VERSION = 1
_START = MAGIC + bytes([VERSION])
_HEAD = struct.Struct("<BII")
_SIZE = struct.Struct("<I")
_HEADER, _BLOCK, _END = b"HBE"
# A value and a key have at most 512 MB each, and a block ends with the record that fills it.
_LARGEST = 2**31 - 1
_SLICE = 1 << 20
_LEVEL = 1
_ALWAYS_BELIEVED, _MOST_RATIO = 32 << 20, 100
_MOST_RECORDS = 100_000
"""Records of a block; a page has about a thousand, or a few more where SCAN gives more."""
_HINT = "take the checkpoint again, or use another copy of the file"


class Page(NamedTuple):
    """Some records that were read together.

    :arg at: The server's clock then, milliseconds since 1970.
    :arg keys: Without the prefix.
    :arg values: One per key, as Redis held them.
    :arg ttls: Milliseconds left at that time, one per key, -1 for no end; empty where none has one.
    """

    at: int
    keys: list[bytes]
    values: list[bytes]
    ttls: list[int]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first frame of a checkpoint.

    :arg compression: ``zstd`` or ``zlib``.
    :arg prefix: What the keys started with.
    :arg created: When it was taken, milliseconds since 1970, by the server's clock.
    :arg server: Flavour and version of the server.
    :arg writer: The version of this package that wrote it.
    """

    compression: str
    prefix: bytes
    created: int
    server: str
    writer: str = version("bytewax-redis-state")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The counts of a checkpoint.

    :arg records: A server that shrinks its table may list a key twice. That key is two records, of
        which the later one counts, so this number can be above that of the keys, never below.
    :arg expiring: How many of the records have a TTL.
    :arg vanished: How many keys were listed and had expired or been deleted when they were read.
    :arg size: Bytes of keys and values, before compression.
    """

    records: int = 0
    expiring: int = 0
    vanished: int = 0
    size: int = 0

    def plus(self, page: Page, vanished: int = 0) -> Counts:
        """Count a page in."""
        return Counts(
            records=self.records + len(page.keys),
            expiring=self.expiring + len(page.ttls) - page.ttls.count(-1),
            vanished=self.vanished + vanished,
            size=self.size + sum(map(len, page.keys)) + sum(map(len, page.values)),
        )


class CheckpointInfo(NamedTuple):
    """Header and counts of a whole checkpoint file.

    :arg header: Its first frame.
    :arg counts: The counts in its last frame.
    """

    header: Header
    counts: Counts


class _Compression(NamedTuple):
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


def _zstd() -> _Compression:
    zstandard = import_module("zstandard")
    packer, unpacker = zstandard.ZstdCompressor(level=_LEVEL), zstandard.ZstdDecompressor()

    def decompress(data: bytes, size: int) -> bytes:
        # The decompressor makes as many bytes as the frame says, so that is checked first.
        if zstandard.frame_content_size(data) != size:
            raise ValueError("other size")
        made: bytes = unpacker.decompress(data, max_output_size=size)
        return made

    return _Compression(packer.compress, decompress)


def _zlib() -> _Compression:
    def decompress(data: bytes, size: int) -> bytes:
        unpacker = zlib.decompressobj()
        return unpacker.decompress(data, size) if size else b""

    return _Compression(lambda data: zlib.compress(data, _LEVEL), decompress)


_COMPRESSIONS: Mapping[str, Callable[[], _Compression]] = MappingProxyType(
    {"zstd": _zstd, "zlib": _zlib}
)


def best_compression() -> str:
    """Tell which compression a new checkpoint gets: zstd where it is installed, else zlib."""
    try:
        import_module("zstandard")
    except ImportError:
        return "zlib"
    return "zstd"


def _compression(name: str) -> _Compression:
    if name not in _COMPRESSIONS:
        raise CheckpointError(
            f"the checkpoint is compressed with {name!r}, which this version does not know",
            "upgrade bytewax-redis-state to read it",
        )
    try:
        return _COMPRESSIONS[name]()
    except ImportError:
        raise CheckpointError(
            f"the checkpoint is compressed with {name}, which is not installed here",
            "pip install 'bytewax-redis-state[zstd]'",
        ) from None


class CheckpointWriter:
    """Write a checkpoint, front to back; the file need not be seekable.

    :arg to: Open for writing bytes; left open.
    :arg header: The first frame.
    """

    def __init__(self, to: BinaryIO, header: Header) -> None:
        self._to = to
        self._digest = hashlib.sha256()
        self._sum = zlib.crc32(_START)
        self._compress = _compression(header.compression).compress
        self._pack = msgpack.Packer().pack
        self.written = 0
        self._put(_START)
        self._frame(_HEADER, self._pack(asdict(header)))

    def write(self, page: Page) -> None:
        """Append the records of a page as one block."""
        block = self._pack((page.at, page.keys, page.values, page.ttls))
        packed = self._compress(block)
        if len(block) > _ALWAYS_BELIEVED:
            packed = packed.ljust(-(-len(block) // _MOST_RATIO), b"\0")
        self._frame(_BLOCK, _SIZE.pack(len(block)) + packed)

    def finish(self, counts: Counts) -> None:
        """Write the last frame; without it the file is refused."""
        self._frame(_END, self._pack({**asdict(counts), "digest": self._digest.digest()}))
        self._to.flush()

    def _frame(self, kind: int, payload: bytes) -> None:
        self._sum = _sum_of(kind, payload, self._sum)
        self._put(_HEAD.pack(kind, len(payload), self._sum))
        self._put(payload)

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        left = memoryview(data)
        while left:  # an unbuffered file may write a part only
            left = left[self._to.write(left) or 0 :]
        self.written += len(data)


def _sum_of(kind: int, payload: bytes, before: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_HEAD.pack(kind, len(payload), 0), before))


class CheckpointReader:
    """Read a checkpoint, front to back; the file need not be seekable.

    :arg from_: Open for reading bytes, at the checkpoint's start; left open.
    :arg name: The file's name in errors.
    :raises CheckpointDamagedError: If the start is not that of a checkpoint, or is damaged.
    :raises CheckpointError: If a newer version wrote it, or its compression is not installed.
    """

    def __init__(self, from_: BinaryIO, name: str) -> None:
        self._from = from_
        self._name = name
        self._digest = hashlib.sha256()
        self._at = 0
        self._frames = 0
        self._check_start()
        kind, payload = self._frame()
        if kind != _HEADER:
            raise self._damaged("has no header")
        self.header = self._header(payload)
        self._decompress = _compression(self.header.compression).decompress
        self.counts = Counts()

    def __iter__(self) -> Iterator[Page]:
        """Give the pages one by one, each checked; the counts are complete after the last one.

        :raises CheckpointDamagedError: If a block is damaged, or the end is missing or disagrees.
        """
        while True:
            before = self._digest.digest()
            kind, payload = self._frame()
            if kind == _END:
                return self._end(payload, before)
            if kind != _BLOCK:
                raise self._damaged(f"has kind {kind:#04x} at frame {self._frames}")
            page = self._page(payload)
            self.counts = self.counts.plus(page)
            yield page

    def _check_start(self) -> None:
        start = self._take(len(_START))
        self._sum = zlib.crc32(start)
        if start[: len(MAGIC)] != MAGIC:
            raise self._damaged(f"is no checkpoint: it starts with {start[:8].hex() or 'nothing'}")
        if len(start) > len(MAGIC) and start[-1] > VERSION:
            raise CheckpointError(
                f"the checkpoint {self._name} has format version {start[-1]}: written by a newer "
                "version, or damaged",
                "upgrade bytewax-redis-state to read it",
            )
        if start != _START:
            raise self._damaged(f"ends or is damaged in its first {len(_START)} bytes")

    def _frame(self) -> tuple[int, bytes]:
        self._frames += 1
        start = self._at
        head = self._take(_HEAD.size)
        if len(head) < _HEAD.size:
            raise self._cut_off(start)
        kind, length, stored = _HEAD.unpack(head)
        if length > _LARGEST:
            raise self._damaged(f"has a damaged length in frame {self._frames}, at byte {start}")
        payload = self._take(length)
        if len(payload) < length:
            raise self._cut_off(start)
        self._sum = _sum_of(kind, payload, self._sum)
        if self._sum != stored:
            raise self._damaged(f"fails its check sum in frame {self._frames}, at byte {start}")
        return kind, payload

    def _take(self, size: int) -> bytes:
        """Read so many bytes, fewer at the end of the file.

        In slices, so that a damaged length can't ask for gigabytes at once.
        """
        slices = []
        while size and (data := self._from.read(min(size, _SLICE))):
            slices.append(data)
            size -= len(data)
        taken = slices[0] if len(slices) == 1 else b"".join(slices)
        self._digest.update(taken)
        self._at += len(taken)
        return taken

    def _header(self, payload: bytes) -> Header:
        try:
            fields: dict[str, Any] = msgpack.unpackb(payload)
            known = {name: fields[name] for name in Header.__dataclass_fields__}
            _check_types(known)
        except (ValueError, KeyError, TypeError):
            raise self._damaged("has a header that can't be read") from None
        return Header(**known)

    def _page(self, payload: bytes) -> Page:
        try:
            (size,) = _SIZE.unpack_from(payload)
            if size > max(_ALWAYS_BELIEVED, _MOST_RATIO * len(payload)):
                raise ValueError("more than its bytes can hold")  # noqa: TRY301
            block = self._decompress(payload[_SIZE.size :], size)
            if len(block) != size:
                raise ValueError("other size")  # noqa: TRY301 - said in our words below
            page = Page(*msgpack.unpackb(block, max_array_len=_MOST_RECORDS))
            if not len(page.keys) == len(page.values) == (len(page.ttls) or len(page.keys)):
                raise ValueError("other numbers")  # noqa: TRY301
            _check_page(page)
        except Exception as error:
            # A broad except, because each compression raises errors of its own. The check sum
            # agreed, so the writer wrote the block like this.
            raise self._damaged(
                f"holds a block that can't be read, frame {self._frames}"
            ) from error
        return page

    def _end(self, payload: bytes, before: bytes) -> None:
        try:
            fields: dict[str, Any] = msgpack.unpackb(payload)
            digest = fields.pop("digest")
            counts = Counts(**fields)
            if {*map(type, fields.values())} != {int}:
                raise TypeError("other types")  # noqa: TRY301 - said in our words below
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._damaged("has an end that can't be read") from None
        if digest != before:
            raise self._damaged("fails the check sum over all of it")
        found = self.counts
        if (found.records, found.expiring, found.size) != (
            counts.records,
            counts.expiring,
            counts.size,
        ):
            raise self._damaged(f"holds {found.records} records and says {counts.records}")
        if self._from.read(1):
            raise self._damaged(f"goes on after its end, at byte {self._at}")
        self.counts = counts

    def _cut_off(self, start: int) -> CheckpointDamagedError:
        what = f"is cut off: frame {self._frames}, at byte {start}, ends at byte {self._at}"
        return self._damaged(what)

    def _damaged(self, what: str) -> CheckpointDamagedError:
        return CheckpointDamagedError(f"the checkpoint {self._name} {what}", _HINT)


_HEADER_TYPES = (str, bytes, int, str, str)


def _check_types(header: Mapping[str, Any]) -> None:
    if tuple(map(type, header.values())) != _HEADER_TYPES:
        raise TypeError("other types")


def _check_page(page: Page) -> None:
    if not {type(page.keys), type(page.values), type(page.ttls)} == {list}:
        raise TypeError("other types")
    kinds = {*map(type, page.keys), *map(type, page.values)}
    if not kinds <= {bytes} or not {type(page.at), *map(type, page.ttls)} <= {int}:
        raise TypeError("other types")


def read_info(from_: BinaryIO, name: str) -> CheckpointInfo:
    """Read a checkpoint to its end and check all of it.

    :arg from_: Open for reading bytes, at the checkpoint's start.
    :arg name: The file's name in errors.
    :returns: Its header and its counts.
    :raises CheckpointDamagedError: If any byte is missing, altered or too many.
    """
    reader = CheckpointReader(from_, name)
    for _ in reader:
        pass
    return CheckpointInfo(reader.header, reader.counts)
