"""What reads bytes that somebody else may have written, each as a function of any bytes.

A target returns where the bytes were read or refused by one of our errors; anything else that comes
out of it is a finding. Where a check sum stands before the rest, a target puts the right one in, as
a forger would.
"""

from __future__ import annotations

import io
import pickle
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import msgpack

from bytewax_redis_state.backend.dump.checkpoint_file import (
    _HEAD,
    _SIZE,
    _START,
    CheckpointReader,
    CheckpointWriter,
    Counts,
    Header,
    Page,
    _sum_of,
    read_info,
)
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.delta import (
    mark_pickled,
    pack_delta,
    pack_full_delta,
    unpack_changes,
    unpack_full_delta,
    unpack_mark,
)
from bytewax_redis_state.codec.envelope import (
    close_envelope,
    deadline_of,
    is_protected,
    is_sound,
    key_ids_of,
    open_envelope,
)
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.outbox.engine_pickle import bytes_in
from bytewax_redis_state.recovery.outbox.outbox import Outbox, OutboxOwner, prepare
from bytewax_redis_state.recovery.records.cells import Cell, CellMark
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.records.lease import Lease, this_owner
from bytewax_redis_state.recovery.records.manifest import Manifest, StepEntry
from bytewax_redis_state.recovery.records.progress import Progress
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.stock.inert_pickle import is_idle_window
from bytewax_redis_state.stock.partition import open_partition

__all__ = ["SEEDS", "TARGETS"]

KEY = "k"
PLACE = {"namespace": "ns", "flow_id": "flow", "step": "sum"}
KEYS = FlowKeys("ns", "flow")
SECRET = {
    "signing_keys": {"s": b"s" * 32},
    "sign_with": "s",
    "encryption_keys": {"e": b"e" * 32},
    "encrypt_with": "e",
}
SAFE = Codec(allow_pickle=False, inflate_limit=1024 * 1024).bind(**PLACE)
LENIENT = Codec(
    allow_pickle=False,
    inflate_limit=1024 * 1024,
    **SECRET,
    accept_unsigned=True,
    accept_unencrypted=True,
).bind(**PLACE)
VALUES = (
    None, 7, -(2**70), 1.5, "text", b"bytes", (1, "a", None), [1, [2, {"a": (3,)}]], {"a": {1, 2}},
    {"deep": [[[[[1]]]]]}, 2j, frozenset({1}),
)  # fmt: skip


def envelope(data: bytes) -> None:
    """Read an envelope as it is."""
    deadline_of(data)
    key_ids_of(data)
    is_protected(data)
    is_sound(KEY.encode(), data)
    with suppress(StateError):
        open_envelope(KEY, data)
    for codec in (SAFE, LENIENT):
        with suppress(StateError):
            codec.decode(KEY, data)
        with suppress(StateError):
            codec.require_sound(KEY, data)


def sealed(data: bytes) -> None:
    """Read an envelope whose check sum is right."""
    if len(data) >= 2:
        envelope(close_envelope(KEY, b"\xb1" + data[1:]))


def signed(data: bytes) -> None:
    """Read a payload that somebody with all keys has signed and encrypted."""
    envelope(LENIENT._seal(KEY, data[0] % 3 if data else 0, data[1:]))


def delta(data: bytes) -> None:
    """Read a delta, and a full delta."""
    with suppress(StateError):
        for key, value in unpack_changes(data).items():
            assert key.decode().encode() == key
            assert value is None or type(value) is bytes
    with suppress(StateError):
        inner, is_marked = unpack_mark(data)
        assert type(inner) is bytes
        assert is_marked or inner is data
    with suppress(StateError):
        full = unpack_full_delta(data)
        if full is not None:
            assert (type(full.request), type(full.awaited)) == (int, bool)
            assert type(full.delta) is bytes


class _NoRedis:
    """Stands for a client that a journal is given and doesn't use."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_more: None


_STORE = FencedStore(_NoRedis(), _NoRedis(), KEYS, "one", Token(3))  # type: ignore[arg-type]
_JOURNAL = Journal(_STORE, 0)


def entry(data: bytes) -> None:
    """Read an entry of the journal: a byte says where its cell ends."""
    cut = 1 + data[0] % 32 if data else 0
    for fields in ({b"c": data[1:cut], b"d": data[cut:]}, {b"c": b"3:sum", b"d": data}, {}):
        with suppress(StateError):
            read = _JOURNAL._entry(b"7-1", fields)
            assert type(read.cell.step) is str
            assert type(read.cell.shard) is int


def _fields(data: bytes, whole: Mapping[bytes, bytes]) -> Iterator[dict[bytes, bytes]]:
    """Put the bytes into each field of a hash, and make a hash of them."""
    for name in whole:
        yield {**whole, name: data}
    parts = data.split(b"\n")
    yield {**whole, **dict(zip(parts[::2], parts[1::2], strict=False))}
    yield dict(zip(parts[::2], parts[1::2], strict=False))


MANIFEST = {
    name.encode(): text.encode()
    for name, text in Manifest(
        "one",
        3,
        2,
        9,
        ("a", "b"),
        steps={"sum": StepEntry("flow.sum", "keyed")},
        parts={"in": ("a",)},
        versions={"python": "3.11"},
        retention={"sum": 1000},
    )
    .to_fields()
    .items()
} | {b"incarnation": b"one", b"generation": b"3-9c41d0e7", b"time": b"1700000000000"}
CELL = {
    b"incarnation": b"one",
    b"generation": b"3-9c41d0e7",
    b"epoch": b"9",
    b"count": b"4",
    b"p0": b"10",
    b"mark1": b"11",
    b"d1700000000000": b"2",
    b"slack": b"1000",
}


def manifest(data: bytes) -> None:
    """Read the hash of a manifest, and use what came out as a start does."""
    for fields in _fields(data, MANIFEST):
        with suppress(StateError):
            read = Manifest.from_fields(KEYS, fields)
            if read is not None:
                read.require_whole(KEYS)
                assert all(type(name) is str for name in (*read.names, *read.processes))
                assert read.offset + read.generation + read.shards is not None
                assert Manifest.from_fields(KEYS, {**_with_names(read)}) is not None


def _with_names(read: Manifest) -> dict[bytes, bytes]:
    names = {"incarnation": read.incarnation, "generation": str(read.token), "time": "0"}
    return {n.encode(): text.encode() for n, text in (read.to_fields() | names).items()}


def cell(data: bytes) -> None:
    """Read the hash of a cell, and use what came out as a start does."""
    with suppress(ValueError):  # as an entry of the journal has it; that names the entry
        Cell.from_bytes(data)
    for fields in _fields(data, CELL):
        with suppress(StateError):
            mark = CellMark.parse(KEYS, Cell("sum", 3), fields, "one")
            assert mark.highest >= mark.applied(0) - 1
            mark.expired(1_800_000_000_000)


PROGRESS = {
    b"incarnation": b"one",
    b"generation": b"3-9c41d0e7",
    b"epoch": b"9",
    b"row": b"40",
    b"trimmed": b"2",
    b"time": b"1700000000000",
    b"entries": b"3",
    b"last": b"8-40",
    b"safe": b"7",
    b"part": b"1",
}


def progress(data: bytes) -> None:
    """Read the hash of a partition's progress, and use what came out as a start does."""
    for fields in _fields(data, PROGRESS):
        with suppress(StateError):
            read = Progress.parse(KEYS, KEYS.progress(0, 3), fields, "one")
            assert read.epoch - read.trimmed >= 0
            assert read.entries + read.row + read.time + (read.safe or 0) + read.part >= 0


def lease(data: bytes) -> None:
    """Read a lease, and use what came out as a start does."""
    with suppress(StateError):
        read = Lease.from_json(data)
        assert read.owner_is_dead in (True, False)
        assert read.whereabouts
        assert read.beat + 1 > read.beat
        assert all(list(listed) for listed in read.parts.values()) in (True, False)
        read.to_json()


def key(data: bytes) -> None:
    """Take keys apart."""
    for name in (data, b"ns:{flow" + data, b"ns:{flow/s3}:state:" + data):
        KEYS.cell_prefix(name)
        with suppress(UnicodeDecodeError):  # whoever lists keys asks for those that are text
            KEYS.parse(name)
            KEYS.parse_state(name)


def checkpoint(data: bytes) -> None:
    """Read a checkpoint file as it is."""
    with suppress(StateError):
        read_info(io.BytesIO(data), "file")


def framed(data: bytes) -> None:
    """Read a checkpoint file whose check sums are right: a byte says where each frame ends."""
    made, before, rest = bytearray(_START), zlib.crc32(_START), data
    while rest:
        kind, size = b"HBEx"[rest[0] % 4], (rest[0] >> 2) * 8 + 4
        payload, rest = rest[1 : 1 + size], rest[1 + size :]
        if kind == ord("B"):
            payload = _SIZE.pack(len(payload)) + zlib.compress(payload)
        before = _sum_of(kind, payload, before)
        made += _HEAD.pack(kind, len(payload), before) + payload
    checkpoint(bytes(made))
    header = io.BytesIO()
    CheckpointWriter(header, Header(compression="zlib", prefix=b"p", created=1, server="s"))
    checkpoint(header.getvalue() + bytes(made[len(_START) :]))
    _after_header(data)


def _after_header(data: bytes) -> None:
    """One block of the bytes, one end of them, and their right ends."""
    for kind in (ord("B"), ord("E")):
        file = io.BytesIO()
        for compression in ("zlib", "zstd"):
            writer = CheckpointWriter(
                file, Header(compression=compression, prefix=b"p", created=1, server="s")
            )
            if kind == ord("B"):
                writer._frame(kind, _SIZE.pack(len(data)) + writer._compress(data))
                writer._frame(kind, data)
            else:
                writer._frame(kind, data)
            file.seek(0)
            with suppress(StateError):
                for page in CheckpointReader(file, "file"):
                    assert all(type(part) is bytes for part in (*page.keys, *page.values))
            file = io.BytesIO()


def row(data: bytes) -> None:
    """Read the pickle of an outbox row."""
    with suppress(StateError):
        read = bytes_in(data)
        assert type(read) is bytes


_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
_STAMP = OutboxOwner("one", 3, 0)


def outbox(data: bytes) -> None:
    """Read an outbox some of whose bytes are others: the input says where, and which."""
    made = bytearray(_outbox_file())
    for at in range(0, len(data) - 3, 3):
        made[int.from_bytes(data[at : at + 2], "big") % len(made)] = data[at + 2]
    path = _FOLDER / "part-0.sqlite3"
    path.write_bytes(made)
    with suppress(StateError), closing(Outbox(path, _STAMP, frozenset({"in"}))) as opened:
        opened.commit_mark()
        opened.changed()
        for read in opened.rows(0, 2**62, 1 << 20):
            assert type(read.id) is int
        opened.backlog(0)
        _ = opened.renewal, opened.pruned, opened.spare


def _outbox_file() -> bytes:
    path = _FOLDER / "made.sqlite3"
    if not path.exists():
        import sqlite3

        with closing(sqlite3.connect(path)) as db:
            db.executescript(
                "CREATE TABLE exs (ex_num, worker_count, resume_epoch, created_at);"
                "CREATE TABLE snaps (step_id, state_key, snap_epoch, ser_change);"
                "CREATE TABLE commits (part_index, commit_epoch);"
            )
        prepare(path, _STAMP, execution=1, resume_epoch=2, restored=[("in", "a", b"x")])
        with closing(sqlite3.connect(path)) as db:
            db.execute("INSERT INTO snaps VALUES ('in', 'a', 2, ?)", (pickle.dumps(b"y"),))
            db.execute("INSERT INTO commits VALUES (0, 2)")
            db.commit()
    return path.read_bytes()


def idle(data: bytes) -> None:
    """Look into the pickle of a window state in a row of a stock store."""
    assert is_idle_window(data) in (True, False)
    assert is_idle_window(_IDLE_START + data) in (True, False)


def stock(data: bytes) -> None:
    """Read a partition of a stock store some of whose bytes are others, as :func:`outbox` does."""
    made = bytearray(_stock_file())
    for at in range(0, len(data) - 3, 3):
        made[int.from_bytes(data[at : at + 2], "big") % len(made)] = data[at + 2]
    path = _FOLDER / "stock.sqlite3"
    path.write_bytes(made)
    with suppress(StateError), ExitStack() as stack:
        for read in open_partition(path, stack).snaps():
            assert type(read.size) is int
            is_idle_window(read.change or b"")


def _stock_file() -> bytes:
    made = _FOLDER / "stock"
    if not made.exists():
        from bytewax.recovery import init_db_dir

        made.mkdir(parents=True)
        init_db_dir(made, 1)
        import sqlite3

        with closing(sqlite3.connect(made / "part-0.sqlite3")) as db:
            for key, change in (("k", _IDLE), ("l", None)):
                db.execute(
                    "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) "
                    "VALUES ('f.a', ?, 2, ?)",
                    (key, change),
                )
            db.commit()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (made / "part-0.sqlite3").read_bytes()


def _idle_window() -> bytes:
    from bytewax.operators import windowing as win

    return pickle.dumps(win._WindowSnapshot(None, win._SlidingWindowerState(), {}, []))


_IDLE = _idle_window()
_IDLE_START = _IDLE[: _IDLE.index(b"_WindowSnapshot") + len(b"_WindowSnapshot")]

TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(envelope, sealed, signed, delta, entry, manifest, cell, progress, lease, key),
        *(checkpoint, framed, row, outbox, idle, stock),
    )
}


def _checkpoint_seeds() -> Iterator[bytes]:
    for compression in ("zlib", "zstd"):
        file = io.BytesIO()
        writer = CheckpointWriter(
            file, Header(compression=compression, prefix=b"p:", created=1, server="redis 7.0.15")
        )
        page = Page(1_700_000_000_000, [b"a", b"b"], [b"x" * 40, b"y"], [-1, 5000])
        writer.write(page)
        writer.finish(Counts().plus(page))
        yield file.getvalue()


def _envelope_seeds() -> list[bytes]:
    settings: list[dict[str, Any]] = [{}, SECRET, {"compression": "zlib", "compress_above": 0}]
    settings.append({"compression": "zstd", "compress_above": 0, **SECRET})
    codecs = [Codec(**chosen).bind(**PLACE) for chosen in settings]
    return [
        c.encode(KEY, value, deadline) for c in codecs for value in VALUES for deadline in (None, 5)
    ]


def _deltas() -> list[bytes]:
    changes = {"a": _envelope_seeds()[0], "b": None}
    return [
        pack_delta(changes),
        pack_delta({}),
        pack_full_delta(3, pack_delta(changes), awaited=True),
        mark_pickled(pack_delta(changes)),
    ]


_JSONS = [v for n, v in MANIFEST.items() if v[:1] in b"[{"]
SEEDS: Mapping[str, list[bytes]] = {
    "envelope": _envelope_seeds(),
    "sealed": [seed[:2] + seed[6:] for seed in _envelope_seeds()],
    "signed": [b"\0" + msgpack.packb(v) for v in (1, [1], {"a": 1}, msgpack.ExtType(33, b"\0{}"))],
    "delta": _deltas(),
    "entry": [b"\x06" + b"3:sum" + seed for seed in _deltas()],
    "manifest": [*_JSONS, b"7", b"steps\n{}\nshards\n8"],
    "cell": [b"3:sum", b"7", b"p1\n5\nmark1\n6"],
    "progress": [b"7", b"-1", b"1e9", b"safe\n5\npart\n6", b"8-40"],
    "lease": [this_owner(0, "c", {"in": ["a"]}).to_json().encode()],
    "key": [b"}:manifest", b"/p0}:journal:3", b"/s3}:state:sum:k", b"}:lease:0"],
    "checkpoint": list(_checkpoint_seeds()),
    "framed": [
        b"\0" + msgpack.packb({"compression": "zlib", "prefix": b"", "created": 1, "server": ""}),
        msgpack.packb([1, [b"a"], [b"b"], []]),
        *(msgpack.packb([1, *lists]) for lists in ([[b"a"], [b"b"], {}], [{}, {}, []])),
        msgpack.packb({"records": 0, "expiring": 0, "vanished": 0, "size": 0, "digest": b"x"}),
    ],
    "row": [pickle.dumps(b"y"), pickle.dumps({"a": [1]}), pickle.dumps(Path("x"))],
    "outbox": [b"\0\1\2", bytes(range(60)), b"\x10\0\xff\x10\1\xff"],
    "idle": [_IDLE, _IDLE[len(_IDLE_START) :]],
    "stock": [b"\0\1\2", bytes(range(60)), b"\x10\0\xff\x10\1\xff"],
}
"""Target to what is right for it, or nearly: where a search begins."""
