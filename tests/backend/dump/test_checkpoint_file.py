"""The format of a checkpoint file: golden bytes, every byte flipped, every length cut."""

from __future__ import annotations

import io
import sys

import pytest

from bytewax_redis_state.backend.dump.checkpoint_file import (
    CheckpointInfo,
    CheckpointReader,
    CheckpointWriter,
    Counts,
    Header,
    Page,
    read_info,
)
from bytewax_redis_state.errors import CheckpointDamagedError, CheckpointError

HEADER = Header(
    compression="zlib", prefix=b"state:", created=1700000000000, server="Redis 7.0.15", writer="1"
)
PAGES = [
    Page(1700000000001, [b"a", b"\xff\x00"], [b"1", b""], []),
    Page(1700000000002, [b"c"], [b"three"], [5000]),
    Page(1700000000003, [b"d", b"e"], [b"4", b"5"], [-1, 1]),
]
GOLDEN = bytes.fromhex(
    "89425752530d0a1a01484f00000055da8d9885ab636f6d7072657373696f6ea47a6c6962a6707265666978c40673"
    "746174653aa763726561746564cf0000018bcfe56800a6736572766572ac526564697320372e302e3135a6777269"
    "746572a13142250000004fb15fae1900000078019b729e8181b1fbfcd30cc6494718138f30fd6700d28647182600"
    "0088e60a664227000000c8b42ddb1a00000078019b729e8181b1fbfcd30ca689471893271e612dc9284a4d9d7856"
    "b8030094a00b324227000000aab040eb1b00000078019b729e8181b1fbfcd30ce6494718538e30a6022993238ca6"
    "93fe3302009c950b0b454d000000a735574c85a77265636f72647305a86578706972696e6702a876616e69736865"
    "6400a473697a650ea6646967657374c420793deecc69d80371f246a5f3c58dbce4c22b324d4db7d221c38643af48"
    "6a63f7"
)


def written(pages=PAGES, header=HEADER) -> bytes:
    file, counts = io.BytesIO(), Counts()
    writer = CheckpointWriter(file, header)
    for page in pages:
        writer.write(page)
        counts = counts.plus(page)
    writer.finish(counts)
    assert writer.written == len(file.getvalue())
    return file.getvalue()


def read(data: bytes) -> tuple[Header, list[Page], Counts]:
    reader = CheckpointReader(io.BytesIO(data), "file")
    pages = list(reader)
    return reader.header, pages, reader.counts


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_what_is_written_is_read(compression):
    pytest.importorskip("zstandard")
    header = Header(compression=compression, prefix=b"p", created=1, server="s")
    counts = Counts(records=5, expiring=2, size=14)
    assert read(written(header=header)) == (header, PAGES, counts)


def test_a_file_of_version_1_can_be_read():
    """Golden bytes: whatever comes later has to read them."""
    assert read(GOLDEN) == (HEADER, PAGES, Counts(records=5, expiring=2, size=14))


def test_the_start_is_what_the_docstring_says():
    kind, length = GOLDEN[9:10], int.from_bytes(GOLDEN[10:14], "little")
    assert (kind, written()[: 18 + length]) == (b"H", GOLDEN[: 18 + length])


def test_nothing_but_a_header_and_an_end_is_an_empty_checkpoint():
    assert read_info(io.BytesIO(written([])), "file") == CheckpointInfo(HEADER, Counts())


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_every_flipped_byte_is_refused(bit):
    data = written()
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= bit
        with pytest.raises(CheckpointError, match="file") as caught:
            read(bytes(altered))
        assert caught.value.hint, at


def test_every_cut_is_refused():
    data = written()
    for length in range(len(data)):
        with pytest.raises(CheckpointDamagedError, match="file"):
            read(data[:length])


def test_what_follows_the_end_is_refused():
    with pytest.raises(CheckpointDamagedError, match="goes on after its end"):
        read(written() + b"\0")


def frames(data: bytes) -> list[bytes]:
    found, at = [], 9
    while at < len(data):
        size = 9 + int.from_bytes(data[at + 1 : at + 5], "little")
        found.append(data[at : at + size])
        at += size
    return found


def test_dropped_doubled_and_swapped_blocks_are_refused():
    data = written()
    header, one, two, three, end = frames(data)
    start = data[:9] + header
    for blocks in [(one, three), (one, one, two, three), (two, one, three), ()]:
        with pytest.raises(CheckpointDamagedError, match="fails its check sum in frame"):
            read(start + b"".join(blocks) + end)


def test_the_error_names_the_place():
    data = bytearray(written())
    second = data.index(frames(bytes(data))[2])
    data[second + 20] ^= 1
    with pytest.raises(CheckpointDamagedError, match=f"frame 3, at byte {second}"):
        read(bytes(data))


def test_a_newer_version_is_told_from_damage():
    data = bytearray(written())
    data[8] = 2
    with pytest.raises(CheckpointError, match="format version 2") as caught:
        read(bytes(data))
    assert "upgrade" in caught.value.hint


def test_an_unknown_compression_is_named():
    with pytest.raises(CheckpointError, match="lzma"):
        written(header=Header(compression="lzma", prefix=b"", created=1, server=""))


def test_zstd_that_is_not_installed_is_named(monkeypatch):
    pytest.importorskip("zstandard")
    data = written(header=Header(compression="zstd", prefix=b"", created=1, server=""))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(CheckpointError, match="zstd, which is not installed") as caught:
        read(data)
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", bytes(range(100, 200))])
def test_something_else_is_told_to_be_no_checkpoint(data):
    with pytest.raises(CheckpointDamagedError, match="is no checkpoint"):
        read(data)
