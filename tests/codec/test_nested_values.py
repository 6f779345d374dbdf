"""Values inside values: any thread of the engine reads what was written, and no bytes end it."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

import msgpack
import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import MSGPACK, PICKLE, open_envelope, seal
from bytewax_redis_state.errors import DecodeError, EncodeError

PLACE = {"namespace": "n", "flow_id": "f", "step": "sum"}
ANY = Codec().bind(**PLACE)
STRICT = Codec(allow_pickle=False).bind(**PLACE)
ENGINE_STACK = 2 * 1024 * 1024


def nested(depth, make=lambda inner: (inner,), value=()):
    for _ in range(depth):
        value = make(value)
    return value


def forged(levels: int, code: int = 1) -> bytes:
    """A value of the extension type inside itself, so many times."""
    data = msgpack.packb([])
    for _ in range(levels):
        data = msgpack.packb([msgpack.ExtType(code, data)])
    return seal("k", MSGPACK, data)


def in_a_thread(read, stack: int = ENGINE_STACK):
    """What it gives, or raises, in a thread with such a stack."""
    told = []

    def run():
        try:
            told.append(read())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            told.append(error)

    before = threading.stack_size(stack)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    return told[0]


CHILD = """
from tests.codec.test_nested_values import *
print(repr(in_a_thread(lambda: {what})))
"""


def in_a_child(what: str) -> str:
    """Where a signal would end the process, it is not the one of the tests."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(what=what)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.parametrize("depth", [40, 50, 60, 63])
def test_what_is_written_is_read_in_a_thread_of_the_engine(depth):
    data = STRICT.encode("k", nested(depth))
    assert open_envelope("k", data).codec != PICKLE
    assert in_a_child(f"STRICT.decode('k', {data!r}) == nested({depth})") == "True\n"


@pytest.mark.parametrize("levels", [65, 66, 300, 5000])
def test_deeper_bytes_are_refused_and_end_no_reader(levels):
    told = in_a_child(f"STRICT.decode('k', forged({levels}))")
    assert "key 'k': it is nested deeper than 64 levels" in told


def test_a_kilobyte_of_forged_bytes_is_not_sound():
    assert len(forged(300)) < 2000
    with pytest.raises(DecodeError, match="nested deeper than 64 levels"):
        STRICT.require_sound("k", forged(300))


@pytest.mark.parametrize("depth", range(58, 72))
def test_writer_and_reader_agree_about_the_deepest_level(depth):
    for value in (nested(depth), nested(depth, value=(datetime(2024, 1, 1, tzinfo=timezone.utc),))):
        try:
            data = STRICT.encode("k", value)
        except EncodeError as error:
            assert "nested deeper than 64 levels" in str(error)  # noqa: PT017 - a value is fine too
            continue
        assert STRICT.decode("k", data) == value
        STRICT.require_sound("k", data)


def test_what_is_deeper_is_pickled_in_a_thread_of_the_engine():
    for depth in (66, 200):
        expected = f"ANY.decode('k', ANY.encode('k', nested({depth}))) == nested({depth})"
        assert in_a_child(expected) == "True\n"
    assert "RecursionError" in in_a_child("ANY.encode('k', nested(100_000))")


def test_much_data_below_many_levels_is_refused_on_both_sides():
    """Each level copies what is below it: 64 of them would make gigabytes of one value."""
    large = ("x" * 1_100_000,)
    with pytest.raises(EncodeError, match="takes more than 1048576 bytes below 8 levels"):
        STRICT.encode("k", nested(20, value=large))
    for value in (nested(7, value=large), nested(40, value=("x" * 900_000,))):
        assert STRICT.decode("k", STRICT.encode("k", value)) == value
    data = msgpack.packb(["x" * 1_100_000])
    for _ in range(20):
        data = msgpack.packb([msgpack.ExtType(1, data)])
    with pytest.raises(DecodeError, match="has 1100083 bytes below 9 levels of nesting"):
        STRICT.decode("k", seal("k", MSGPACK, data))
