"""Any bytes are read or refused by our errors, in bounded memory; ``make fuzz`` for longer."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from tests.fuzz.targets import SEEDS, TARGETS

MEMORY = 768 * 1024 * 1024
_leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
)
_leaves |= st.binary(max_size=9) | st.builds(msgpack.ExtType, st.integers(0, 40), st.binary())
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_leaves, inner, max_size=3),
    max_leaves=8,
)


def packed(value: object) -> bytes:
    try:
        return msgpack.packb(value, use_bin_type=True)
    except (TypeError, ValueError):
        return b""


def edited(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace parts of it: at, how many bytes, by what."""
    for at, count, new in edits:
        place = at % (len(seed) + 1)
        seed = seed[:place] + new + seed[place + count :]
    return seed


_edits = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3)), max_size=4
)


def inputs(name: str) -> st.SearchStrategy[bytes]:
    seeds = st.sampled_from(SEEDS[name])
    structured = _values.map(packed)
    return st.builds(edited, seeds, _edits) | st.binary(max_size=200) | structured


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused_in_little_memory(name):
    @settings(max_examples=40, deadline=None)
    @given(inputs(name))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS[name]:
        TARGETS[name](seed)
    tracemalloc.start()
    try:
        run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


def bombs() -> list[bytes]:
    """A few bytes that ask for a lot: lengths, nesting, what inflates, pickles that allocate."""
    nested = b"\xdd\x00\x00\xff\xff" * 500 + b"\xc0" * 65_000
    long = [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
    frame = b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little") + b"\x01\0\0"  # zstd
    pickles = [
        b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".",
        b"\x80\x05r\xff\xff\xff\xff.",
    ]
    pickles.append(b"\x80\x05\x8e" + (2**40).to_bytes(8, "little") + b"\x94.")
    numbers = [b"9" * 100_000, b"[" * 100_000, b'{"a":' * 100_000]
    made = [nested, *long, frame, *pickles, *numbers, b"\x93" * 100_000, b"\xff" * 100_000]
    return made + [bytes([0x40 | kind]) + b"\x01\xff\xff\xff\xff" + frame for kind in range(3)]


def run_limited(what: str) -> str:
    """Run code in a process that may take little memory; what it says when it fails."""
    code = (
        "import resource, pickle, tests.fuzz.test_targets as t;"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}));{what}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    return done.stderr if done.returncode else ""


def test_a_bomb_of_few_bytes_takes_neither_memory_nor_time():
    assert run_limited("[run(bomb) for run in t.TARGETS.values() for bomb in t.bombs()]") == ""


def test_a_bomb_would_be_noticed():
    assert "MemoryError" in run_limited("[pickle.loads(bomb) for bomb in t.bombs()[5:6]]")


def test_every_target_has_seeds():
    assert list(SEEDS) == list(TARGETS)
