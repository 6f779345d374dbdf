"""A checkpoint file of few bytes takes little memory, whatever it says."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import msgpack
import pytest

from bytewax_redis_state.backend.dump.checkpoint_file import (
    CheckpointReader,
    CheckpointWriter,
    Counts,
    Header,
    Page,
)
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

MEMORY = 256 * 1024 * 1024
ZERO_GIBI = 2 << 30


def header(compression: str) -> Header:
    return Header(compression=compression, prefix=b"p", created=1, server="s")


def zstd_of_zeros(size: int, told: int | None = None) -> bytes:
    """A frame of zeros, made of pieces, so that the test itself takes no memory for it."""
    zstandard = pytest.importorskip("zstandard")
    made = io.BytesIO()
    writer = zstandard.ZstdCompressor(level=1).stream_writer(
        made, size=size if told is None else told, closefd=False
    )
    for _ in range(size >> 20):
        writer.write(bytes(1 << 20))
    writer.close()
    return made.getvalue()


def zlib_of_zeros(size: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def bomb(compression: str, told: int, packed: bytes) -> bytes:
    file = io.BytesIO()
    CheckpointWriter(file, header(compression))._frame(ord("B"), struct.pack("<I", told) + packed)
    return file.getvalue()


def crowd() -> bytes:
    """A block that is modest in bytes, and a list of millions."""
    block = msgpack.packb([1]) + b""
    block = b"\x94\x01" + b"\xdd" + (30_000_000).to_bytes(4, "big") + b"\xc0" * 30_000_000
    return bomb("zlib", len(block), zlib.compress(block, 9))


BOMBS = {
    "zstd": lambda: bomb("zstd", (1 << 31) - (1 << 20), zstd_of_zeros((1 << 31) - (1 << 20))),
    "zlib": lambda: bomb("zlib", 1 << 30, zlib_of_zeros(1 << 30)),
    "crowd": crowd,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory(name, tmp_path):
    data = BOMBS[name]()
    assert len(data) < 6_000_000
    path = tmp_path / "bomb"
    path.write_bytes(data)
    code = (
        "import re, resource, sys\n"
        "from pathlib import Path\n"
        "import zstandard\n"
        "from bytewax_redis_state.backend.dump.save import verify\n"
        "from bytewax_redis_state.errors import CheckpointDamagedError\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        "def peak():\n"  # not ru_maxrss, which begins with that of the process that forked this one
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "try:\n    verify(sys.argv[1])\n"
        "except CheckpointDamagedError as error:\n    print(error, repr(error.__cause__))\n"
        "print(peak() // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    told, megabytes = done.stdout.splitlines()
    assert "holds a block that can't be read" in told
    assert "MemoryError" not in told
    assert int(megabytes) < 128


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_what_is_large_and_nearly_empty_is_written_so_that_it_is_read(compression):
    file = io.BytesIO()
    writer = CheckpointWriter(file, header(compression))
    page = Page(1, [b"a"], [bytes(60 << 20)], [])
    writer.write(page)
    writer.finish(Counts().plus(page))
    assert 0.6 * 2**20 < len(file.getvalue()) < 0.7 * 2**20
    file.seek(0)
    assert list(CheckpointReader(file, "file")) == [page]
