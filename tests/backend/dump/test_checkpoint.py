"""Checkpoints and restores of key ranges of a real server."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import pytest

from bytewax_redis_state.backend.dump import key_range, restoration
from bytewax_redis_state.backend.dump.copy import copy
from bytewax_redis_state.backend.dump.key_range import RedisKeyRange
from bytewax_redis_state.backend.dump.restoration import restore, unfinished
from bytewax_redis_state.backend.dump.save import save, verify
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import (
    CheckpointDamagedError,
    CheckpointError,
    ConfigError,
    NamespaceNotEmptyError,
    RestoreUnfinishedError,
    ServerUnavailableError,
)
from bytewax_redis_state.server.client import connect

RECORDS = {b"one": b"1", b"\xff\x00\n{x}": b"\x00" * 300, b"three:*?[a]\\": b"", b"4": b"four"}


@pytest.fixture
def state(client) -> RedisKeyRange:
    return RedisKeyRange(client, b"state:")


@pytest.fixture
def other(client) -> RedisKeyRange:
    return RedisKeyRange(client, b"other:")


def fill(client, records=RECORDS, prefix=b"state:") -> None:
    for key, value in records.items():
        client.set(prefix + key, value)


def held(client, prefix=b"state:") -> dict[bytes, bytes]:
    keys = [
        k for k in client.scan_iter(count=1000) if k.startswith(prefix) and b"__bytewax__" not in k
    ]
    return {key[len(prefix) :]: client.get(key) for key in keys}


class Pipe(io.RawIOBase):
    """A file that can't be rewound, and gives and takes a little at a time."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def readable(self):
        return True

    def writable(self):
        return True

    def readinto(self, buffer):
        part, self.data = self.data[: min(len(buffer), 7)], self.data[min(len(buffer), 7) :]
        buffer[: len(part)] = part
        return len(part)

    def write(self, data):
        self.data += bytes(data[:1000])
        return min(len(data), 1000)


def test_a_path_holds_all_and_gives_it_back(client, state, tmp_path):
    fill(client)
    info = save(state, tmp_path / "all.ckpt")
    assert info == verify(str(tmp_path / "all.ckpt"))
    assert (info.counts.records, info.counts.expiring, info.counts.vanished) == (4, 0, 0)
    assert (info.header.prefix, info.header.server) == (b"state:", state.server())
    client.flushdb()
    done = restore(state, tmp_path / "all.ckpt")
    assert (done.info, done.keys, done.replaced, done.expired) == (info, 4, 0, 0)
    assert held(client) == RECORDS
    assert client.keys("*__bytewax__*") == []


def test_an_empty_namespace_is_a_checkpoint_too(client, state, tmp_path):
    fill(client, prefix=b"stat")  # a neighbour
    assert save(state, tmp_path / "none").counts.records == 0
    assert restore(state, tmp_path / "none").keys == 0


def test_a_time_to_live_goes_on_from_the_restore(client, state, tmp_path):
    client.set(b"state:ends", b"1", px=60_000)
    client.set(b"state:stays", b"2")
    info = save(state, tmp_path / "f")
    assert info.counts.expiring == 1
    time.sleep(2)
    restore(state, tmp_path / "f", replace=True)
    assert 58_500 < client.pttl(b"state:ends") <= 60_000
    assert client.pttl(b"state:stays") == -1


def test_deadlines_go_on_while_the_checkpoint_lies_about(client, state, tmp_path):
    client.set(b"state:soon", b"1", px=1000)
    client.set(b"state:later", b"1", px=60_000)
    client.set(b"state:never", b"1")
    save(state, tmp_path / "f")
    time.sleep(1.2)
    done = restore(state, tmp_path / "f", replace=True, deadlines=True)
    assert (done.keys, done.expired) == (2, 1)
    assert 30_000 < client.pttl(b"state:later") < 59_000
    assert client.pttl(b"state:never") == -1


def test_many_pages_with_and_without_ttl(client, state, other, tmp_path):
    records = {b"%d" % i: b"v%d" % i for i in range(3210)}
    fill(client, records)
    client.mset({b"unrelated:%d" % i: b"" for i in range(5000)})
    with client.pipeline(transaction=False) as pipe:  # one round trip: the time runs from here
        for i in range(0, 3210, 3):
            pipe.pexpire(b"state:%d" % i, 600_000 + i)
        pipe.execute()
    info = save(state, tmp_path / "f")
    assert (info.counts.records, info.counts.expiring) == (3210, 1070)
    assert restore(other, tmp_path / "f").keys == 3210
    assert held(client, b"other:") == records
    assert client.pttl(b"other:1") == -1
    assert 500_000 < client.pttl(b"other:3") <= 600_003
    assert held(client) == records


def test_large_values_come_one_by_one(client, state, other, tmp_path, monkeypatch):
    """A page ends with the value that fills it, so that few large values are held at a time."""
    monkeypatch.setattr(key_range, "PAGE_BYTES", 1000)
    records = {b"%d" % i: os.urandom(700) for i in range(50)}
    fill(client, records)
    sizes = [len(reading.page.keys) for reading in state.read()]
    assert (max(sizes), sum(sizes)) == (2, 50)
    save(state, tmp_path / "f")
    restore(other, tmp_path / "f")
    assert held(client, b"other:") == records


def test_zlib_takes_the_place_of_zstd(client, state, other, tmp_path, monkeypatch):
    fill(client)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert save(state, tmp_path / "f").header.compression == "zlib"
    restore(other, tmp_path / "f")
    assert held(client, b"other:") == RECORDS


def test_a_prefix_is_taken_literally(client, tmp_path):
    odd = RedisKeyRange(client, b"a*b?[c]\\")
    fill(client, prefix=odd.prefix)
    fill(client, {b"x": b"not mine"}, prefix=b"aXbYc")
    assert save(odd, tmp_path / "f").counts.records == len(RECORDS)
    restore(odd, tmp_path / "f", replace=True)
    assert (held(client, odd.prefix), client.get(b"aXbYcx")) == (RECORDS, b"not mine")


def test_locks_are_neither_copied_nor_cleared(client, state, tmp_path):
    fill(client)
    client.set(b"state:__bytewax__:lock:x", b"me")
    assert save(state, tmp_path / "f").counts.records == len(RECORDS)
    restore(state, tmp_path / "f", replace=True)
    assert client.get(b"state:__bytewax__:lock:x") == b"me"


def test_keys_that_expire_meanwhile_are_counted(client, state, tmp_path, monkeypatch):
    fill(client, {b"%d" % i: b"" for i in range(2500)})
    scan = RedisKeyRange._shown

    def lose(self, keys):
        shown = scan(self, keys)
        client.unlink(shown[0])
        return shown

    monkeypatch.setattr(RedisKeyRange, "_shown", lose)
    counts = save(state, tmp_path / "f").counts
    assert counts.vanished > 0
    assert counts.records + counts.vanished == 2500
    assert verify(tmp_path / "f").counts == counts


def test_a_key_of_another_type_stops_it_and_is_named(client, state, tmp_path):
    fill(client)
    client.hset("state:hash", "a", "b")
    with pytest.raises(CheckpointError, match=r"b'state:hash' at .* holds no string"):
        save(state, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


# --- files ---------------------------------------------------------------------------------------


def test_open_files_and_pipes(client, state):
    fill(client)
    memory, pipe = io.BytesIO(), Pipe()
    memory.write(b"before")
    save(state, memory)
    save(state, pipe)
    memory.seek(6)
    restore(state, memory, replace=True)
    assert held(client) == RECORDS
    verify(Pipe(pipe.data))
    restore(state, Pipe(pipe.data), replace=True)
    assert held(client) == RECORDS


def test_a_real_pipe(client, state):
    fill(client)
    end, start = os.pipe()
    with os.fdopen(start, "wb") as out, os.fdopen(end, "rb") as into:

        def write():
            save(state, out)
            out.close()

        writer = threading.Thread(target=write)
        writer.start()
        done = restore(RedisKeyRange(client, b"far:"), into)
        writer.join()
    assert done.keys == len(RECORDS)


def test_an_interrupted_checkpoint_leaves_the_old_file(client, state, tmp_path):
    fill(client)
    path = tmp_path / "f"
    before = save(state, path)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(state, path, progress=stop)
    assert verify(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("call", [save, restore])
def test_a_text_file_is_refused(state, call):
    with pytest.raises(ConfigError, match="StringIO"):
        call(state, io.StringIO())


def test_a_folder_that_is_not_there_is_named(state, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.*No such file"):
        save(state, tmp_path / "nowhere" / "f")
    with pytest.raises(CheckpointError, match=r"nowhere.*No such file"):
        restore(state, tmp_path / "nowhere")


@pytest.mark.parametrize("make", [io.BytesIO, Pipe])
def test_nothing_is_touched_by_a_damaged_file(client, state, make):
    fill(client)
    file = io.BytesIO()
    save(state, file)
    data = file.getvalue()
    for broken in (data[:-1], data[:-40] + b"x" + data[-39:], data + b"x"):
        with pytest.raises(CheckpointDamagedError):
            restore(state, make(broken), replace=True)
    assert held(client) == RECORDS
    assert unfinished(state) is None


# --- where to ------------------------------------------------------------------------------------


def test_a_namespace_with_keys_is_left_alone(client, state, tmp_path):
    fill(client)
    save(state, tmp_path / "f")
    with pytest.raises(NamespaceNotEmptyError, match=r"b'state:' at redis://.* holds keys") as e:
        restore(state, tmp_path / "f")
    assert "replace=True" in e.value.hint
    assert unfinished(state) is None


def test_replace_deletes_what_was_there(client, state, tmp_path):
    fill(client)
    save(state, tmp_path / "f")
    fill(client, {b"new": b"1", b"one": b"changed"})
    done = restore(state, tmp_path / "f", replace=True)
    assert (done.keys, done.replaced) == (4, 0)
    assert held(client) == RECORDS


def test_merge_keeps_what_is_only_there(client, state, tmp_path):
    fill(client)
    save(state, tmp_path / "f")
    fill(client, {b"new": b"1", b"one": b"changed"})
    client.delete(b"state:4")
    client.pexpire(b"state:one", 10_000)
    done = restore(state, tmp_path / "f", merge=True)
    assert (done.keys, done.replaced) == (4, 3)
    assert held(client) == RECORDS | {b"new": b"1"}
    assert client.pttl(b"state:one") == -1


def test_both_at_once_are_refused(state, other, tmp_path):
    for call in (
        lambda: restore(state, tmp_path / "f", replace=True, merge=True),
        lambda: copy(state, other, replace=True, merge=True),
    ):
        with pytest.raises(ConfigError, match="replace and merge"):
            call()


def test_a_key_that_the_checkpoint_holds_twice_counts_once(client, state, tmp_path, monkeypatch):
    """SCAN gives a key twice where the server shrinks its table."""
    fill(client)
    once = RedisKeyRange._read
    monkeypatch.setattr(
        RedisKeyRange, "_read", lambda self, *ways: [*once(self, *ways), *once(self, *ways)]
    )
    assert save(state, tmp_path / "f").counts.records == 8
    assert restore(state, tmp_path / "f", replace=True).keys == 4
    assert held(client) == RECORDS


# --- interruptions -------------------------------------------------------------------------------


class _StopError(Exception):
    pass


def stop_restore(state, path, **options) -> None:
    def stop(done, total):
        raise _StopError

    with pytest.raises(_StopError):
        restore(state, path, progress=stop, **options)


def test_an_interrupted_restore_is_told(client, state, tmp_path):
    fill(client, {b"%d" % i: b"" for i in range(2500)})
    path = tmp_path / "f"
    save(state, path)
    client.flushdb()
    stop_restore(state, path)
    assert 0 < len(held(client)) < 2500
    found = unfinished(state)
    assert (found.source, found.running) == (str(path), False)
    assert abs(datetime.now(timezone.utc) - found.begun).total_seconds() < 60
    for call in (lambda: restore(state, path), lambda: save(state, tmp_path / "g")):
        with pytest.raises(RestoreUnfinishedError, match=r"was interrupted: begun .* from .*f;"):
            call()
    with pytest.raises(RestoreUnfinishedError):
        copy(state, RedisKeyRange(client, b"other:"))
    assert restore(state, path, replace=True).keys == 2500
    assert unfinished(state) is None


def test_a_merge_finishes_an_interrupted_restore(client, state, tmp_path):
    fill(client, {b"%d" % i: b"" for i in range(2500)})
    path = tmp_path / "f"
    save(state, path)
    client.flushdb()
    stop_restore(state, path)
    restore(state, path, merge=True)
    assert (len(held(client)), unfinished(state)) == (2500, None)


def test_a_killed_restore_is_told(client, state, redis_url, tmp_path):
    fill(client, {b"%d" % i: b"x" for i in range(3000)})
    path = tmp_path / "f"
    save(state, path)
    client.flushdb()
    code = f"""
import os
from bytewax_redis_state.backend.dump.restoration import restore
from bytewax_redis_state.backend.dump.key_range import RedisKeyRange
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import connect
key_range = RedisKeyRange(connect(RedisConfig(url={redis_url!r})), b"state:")
restore(key_range, {str(path)!r}, progress=lambda done, total: os.kill(os.getpid(), 9))
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert unfinished(state).running  # for ten seconds it may as well be slow
    with pytest.raises(RestoreUnfinishedError, match="under way"):
        restore(state, path, replace=True)
    assert 0 < len(held(client)) < 3000


def test_two_restores_at_a_time_are_refused(client, state, tmp_path):
    fill(client)
    path = tmp_path / "f"
    save(state, path)
    refused = []

    def second(done, total):
        with pytest.raises(RestoreUnfinishedError, match="under way"):
            restore(state, path, replace=True)
        refused.append(done)

    restore(state, path, replace=True, progress=second)
    assert refused


def test_a_restore_that_was_taken_over_stops(client, state, tmp_path, monkeypatch):
    fill(client)
    path = tmp_path / "f"
    save(state, path)
    monkeypatch.setattr(restoration, "_HEARTBEAT_SECONDS", 0.0)
    with pytest.raises(RestoreUnfinishedError, match="another restore"):
        restore(
            state, path, replace=True,
            progress=lambda *_: client.set(b"state:__bytewax__:restore", b"{}"),
        )  # fmt: skip
    assert unfinished(state).source == "an unknown source"


def test_a_server_that_dies_meanwhile_ends_it(start_redis, tmp_path):
    server = start_redis()
    client = connect(RedisConfig(url=server.url))
    dying = RedisKeyRange(client, b"state:")
    fill(client, {b"%d" % i: b"" for i in range(9000)})

    def again(done, total):
        if server.alive:
            server.kill()
            server.start()

    with pytest.raises(ServerUnavailableError):
        save(dying, tmp_path / "f", progress=again)
    assert list(tmp_path.iterdir()) == []
    client.close()


def test_a_reading_that_is_given_up_leaves_the_connection_clean(client, state):
    fill(client, {b"%d" % i: b"" for i in range(5000)})
    for _ in range(3):
        next(iter(state.read()))
        list(islice(state.read(), 2))
    assert client.ping() is True


# --- copies --------------------------------------------------------------------------------------


def test_a_copy_to_another_namespace(client, state, other):
    fill(client)
    client.pexpire(b"state:one", 60_000)
    done = copy(state, other)
    assert (done.keys, done.info.counts.records, done.info.counts.expiring) == (4, 4, 1)
    assert held(client, b"other:") == held(client) == RECORDS
    assert 55_000 < client.pttl(b"other:one") <= 60_000
    with pytest.raises(NamespaceNotEmptyError):
        copy(state, other)
    fill(client, {b"more": b""}, prefix=b"other:")
    assert copy(state, other, merge=True).replaced == 4
    assert b"more" in held(client, b"other:")


def test_a_copy_to_another_server(client, state, start_redis):
    fill(client)
    far = connect(RedisConfig(url=start_redis().url))
    copy(state, RedisKeyRange(far, b"state:"))
    assert held(far) == RECORDS
    far.close()


def test_a_copy_into_itself_is_refused(client, state):
    fill(client)
    for prefix in (b"state:", b"state:more:", b"st"):
        with pytest.raises(CheckpointError, match="one is a part of the other"):
            copy(state, RedisKeyRange(client, prefix), replace=True)
    assert held(client) == RECORDS


# --- progress, memory ----------------------------------------------------------------------------


def test_progress_grows_to_the_total(client, state, tmp_path):
    fill(client, {b"%d" % i: b"" for i in range(7000)})
    client.mset({b"unrelated:%d" % i: b"" for i in range(3000)})
    saved, restored = [], []
    save(state, tmp_path / "f", progress=lambda *at: saved.append(at))
    restore(state, tmp_path / "f", replace=True, progress=lambda *at: restored.append(at))
    assert saved[-1] == restored[-1] == (7000, 7000)
    assert saved == sorted(saved)
    assert all(4000 < total < 11000 for _, total in saved), saved
    assert {total for _, total in restored} == {7000}


def test_a_bar_is_for_terminals_only(client, state, tmp_path, capfd):
    fill(client)
    save(state, tmp_path / "f", progress=True)
    restore(state, tmp_path / "f", replace=True, progress=True)
    assert capfd.readouterr() == ("", "")


PEAK = """
import sys
from pathlib import Path
from bytewax_redis_state.backend.dump.save import save
from bytewax_redis_state.backend.dump.key_range import RedisKeyRange
from bytewax_redis_state.backend.dump.restoration import restore
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import connect
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
client = connect(RedisConfig(url=sys.argv[1]))
save(RedisKeyRange(client, b"small:"), sys.argv[2])
restore(RedisKeyRange(client, b"back:"), sys.argv[2])
before = peak()
save(RedisKeyRange(client, b"state:"), sys.argv[2])
restore(RedisKeyRange(client, b"back:"), sys.argv[2], replace=True)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_stays_small(client, redis_url, tmp_path):
    """200,000 keys with 26 MB go through less than 16 MB, though a page of each kind came first."""
    for start in range(0, 200_000, 10_000):
        keys = range(start, start + 10_000)
        client.mset({b"state:%d" % i: os.urandom(64) * 2 for i in keys})
    client.mset({b"small:%d" % i: os.urandom(64) * 2 for i in range(3000)})
    done = subprocess.run(
        [sys.executable, "-c", PEAK, redis_url, str(tmp_path / "f")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert client.dbsize() == 403_000
    assert int(done.stdout) < 16_000, "KiB"
    client.flushdb()


@pytest.mark.container
def test_a_container_takes_a_checkpoint_of_this_server(
    client, state, container_redis_url, tmp_path
):
    fill(client)
    save(state, tmp_path / "f")
    far = connect(RedisConfig(url=container_redis_url))
    restore(RedisKeyRange(far, b"state:"), tmp_path / "f", replace=True)
    assert held(far) == RECORDS
    far.close()
