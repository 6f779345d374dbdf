"""Idle windows are told from everything else, and no row gets to do anything."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest
from bytewax.operators import windowing as win
from bytewax.operators.windowing import ZERO_TD, WindowMetadata, _WindowSnapshot

from bytewax_redis_state.stock.inert_pickle import (
    LARGEST_IDLE_WINDOW,
    _is_modest,
    is_idle_window,
)

NOW = datetime(2024, 1, 1, tzinfo=timezone.utc)
EVENT_TIME = win._EventClockState(NOW, NOW)
NO_SESSION = win._SessionWindowerState(max_key=3)
SESSION = win._SessionWindowerState(3, {3: WindowMetadata(NOW, NOW)})
NO_TUMBLING = win._SlidingWindowerState()
TUMBLING = win._SlidingWindowerState({3: WindowMetadata(NOW, NOW)})


def snapshot(clock=EVENT_TIME, windower=NO_SESSION, states=(), queue=()):
    return _WindowSnapshot(clock, windower, dict(states), list(queue))


@pytest.mark.parametrize("protocol", range(2, 6))  # the engine takes Python's default: 4
@pytest.mark.parametrize("windower", [NO_SESSION, NO_TUMBLING])
@pytest.mark.parametrize("clock", [EVENT_TIME, None])
def test_nothing_open_and_nothing_queued_is_idle(protocol, windower, clock):
    assert is_idle_window(pickle.dumps(snapshot(clock, windower), protocol))


@pytest.mark.parametrize(
    "state",
    [
        snapshot(windower=SESSION, states={3: [1]}),
        snapshot(windower=TUMBLING, states={3: [1]}),
        snapshot(windower=SESSION),
        snapshot(windower=TUMBLING),
        snapshot(states={3: [1]}),
        snapshot(states={3: None}),
        snapshot(queue=[("value", NOW)]),
        snapshot(windower={}),
        snapshot(windower=None),
        snapshot(windower=NOW),
    ],
)
def test_anything_open_queued_or_unknown_is_not_idle(state):
    assert not is_idle_window(pickle.dumps(state))


def test_a_clock_of_the_users_own_does_not_matter():
    clock = {"a": deque([1]), "b": OrderedDict(x=1), "c": defaultdict(list, y=[1]), "d": {NOW}}
    clock |= {"e": partial(int, "7"), "f": timedelta(1), "g": datetime, "h": ZERO_TD}
    assert is_idle_window(pickle.dumps(snapshot(clock=clock)))


@pytest.mark.parametrize("state", [None, 7, {}, [], b"", "_WindowSnapshot", NO_SESSION, NOW])
def test_other_states_are_no_windows(state):
    assert not is_idle_window(pickle.dumps(state))


def test_a_pretender_is_no_window():
    like = pickle.dumps(["bytewax.operators.windowing", "_WindowSnapshot"])
    assert not is_idle_window(like)
    assert not is_idle_window(
        pickle.dumps(snapshot()).replace(b"_WindowSnapshot", b"_WindowSnapshut")
    )


def test_a_damaged_row_is_no_window():
    whole = pickle.dumps(snapshot())
    assert not any(is_idle_window(whole[:length]) for length in range(len(whole)))


def test_a_large_row_is_not_looked_into():
    assert not is_idle_window(pickle.dumps(snapshot(clock="x" * LARGEST_IDLE_WINDOW)))


class Evil:
    def __init__(self, call, *args):
        self.call = (call, args)

    def __reduce__(self):
        return self.call


def test_a_row_that_runs_a_command_is_read_and_nothing_runs(tmp_path):
    mark = tmp_path / "ran"
    row = pickle.dumps(snapshot(clock=Evil(os.system, f"touch {mark}")))
    assert is_idle_window(row)
    assert not mark.exists()
    pickle.loads(row)  # the row does bite
    assert mark.exists()


def test_a_row_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "bytewax_evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    head = b"\x80\x02cbytewax.operators.windowing\n_WindowSnapshot\n0"
    row = head + b"cbytewax_evil_module\nBoom\n."
    assert not is_idle_window(row)
    with pytest.raises(SystemExit):
        pickle.loads(row)


@pytest.mark.parametrize(
    "attack",
    [
        # BUILD on the class itself: attributes by a dictionary, and by slots
        b"}(X\x05\x00\x00\x00stateK\x01ub",
        b"N}(X\x05\x00\x00\x00stateK\x01u\x86b",
        b"N}(X\x07\x00\x00\x00__new__K\x01u\x86b",
    ],
)
def test_a_row_cannot_change_how_the_next_is_read(attack):
    head = b"\x80\x02cbytewax.operators.windowing\n_WindowSnapshot\n"
    assert not is_idle_window(head + attack + b".")
    assert is_idle_window(pickle.dumps(snapshot()))
    assert not is_idle_window(pickle.dumps(snapshot(windower=SESSION)))


WINDOW = pickle.dumps(snapshot())
NAMES = WINDOW[: WINDOW.index(b"_WindowSnapshot") + len(b"_WindowSnapshot")]
BOMBS = {
    "a bytearray of a gibibyte": b"\x96" + (1 << 30).to_bytes(8, "little"),
    "bytes of a gibibyte": b"\x8e" + (1 << 30).to_bytes(8, "little"),
    "a memo of a gibibyte": b"r" + (1 << 26).to_bytes(4, "little"),
    "a memo in text": b"p67108864\n",
    "text of a gibibyte": b"X" + (1 << 30).to_bytes(4, "little"),
    # A tuple of two of a tuple of two … as the key of a dict
    "a hash that takes years": b"}K\x01\x85"
    + b"".join(b"q%ch%c\x86" % (n, n) for n in range(10, 90))
    + b"Ns.",
    "the same, memoized late": b"}K\x01\x85"
    + b"".join(b"Nbq%ch%c\x86" % (n, n) for n in range(10, 90))
    + b"Ns.",
}
LIMITED = """
import resource, sys
from bytewax_redis_state.stock.inert_pickle import is_idle_window
data = bytes.fromhex(sys.argv[1])
limit = 160 * 1024 * 1024
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
sys.exit(is_idle_window(data))
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_takes_neither_memory_nor_time(bomb):
    data = NAMES + BOMBS[bomb]
    assert len(data) < 1000
    assert not _is_modest(data)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, data.hex()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pickle_that_ends_too_soon_is_not_modest():
    for end in range(len(WINDOW)):
        assert not _is_modest(WINDOW[:end])
    assert _is_modest(WINDOW)
