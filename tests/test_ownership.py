"""What another user made, or may write to, is refused, whatever it is: pickles in it would run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from bytewax_redis_state import RedisRecovery, RedisStateBackend
from bytewax_redis_state.chaos.network import ports
from bytewax_redis_state.config import Secrets
from bytewax_redis_state.config.ownership import folder_flaw
from bytewax_redis_state.errors import CheckpointError, ConfigError, ScratchError
from bytewax_redis_state.recovery.outbox.scratch import open_scratch
from bytewax_redis_state.server.embedded import start_embedded
from bytewax_redis_state.server.embedded_directory import EmbeddedDirectory, ServerRecord
from tests.run.conftest import Runner
from tests.run.flows import get_flow

STRANGER = 54_321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
FLAWS = [pytest.param("stranger's", marks=as_root), "open to all"]


def spoil(path: Path, flaw: str) -> str:
    """Give a file or folder to another user, or open it to all; gives the words for it."""
    if flaw == "stranger's":
        os.chown(path, STRANGER, -1, follow_symlinks=False)
        return f"belongs to the user {STRANGER}, and this process runs as 0"
    path.chmod(0o777)
    return "has the mode 0777, so other users may write to it"


@pytest.mark.parametrize("flaw", FLAWS)
def test_an_embedded_servers_directory_is_refused(tmp_path, flaw):
    folder = tmp_path / ".bytewax-redis-state"
    folder.mkdir()
    (folder / "lock").touch()
    words = spoil(folder, flaw)
    with pytest.raises(ConfigError, match=f"{folder} {words}; run in a directory") as caught:
        start_embedded(folder)
    if flaw == "open to all":
        assert f"chmod 700 {folder}" in str(caught.value)
        folder.chmod(0o700)  # what the hint says
        start_embedded(folder, idle=timedelta(seconds=1))


@as_root
def test_what_a_stranger_put_into_an_embedded_servers_directory_is_refused(tmp_path):
    folder = tmp_path / ".bytewax-redis-state"
    for name in ("appendonlydir", "server.json", "server.sock"):
        (folder / name).mkdir(parents=True)
        (folder / "lock").touch()
        spoil(folder / name, "stranger's")
        with pytest.raises(ConfigError, match=f"holds '{name}', which belongs to the user"):
            start_embedded(folder)
        (folder / name).rmdir()


@as_root
def test_a_link_of_a_stranger_to_an_embedded_servers_directory_is_not_followed(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "lock").touch()
    link = tmp_path / ".bytewax-redis-state"
    link.symlink_to(own)
    spoil(link, "stranger's")
    with pytest.raises(ConfigError, match="is a symbolic link that another user made"):
        start_embedded(link)


SERVE = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    os.setuid(int(sys.argv[2]))
    server.listen()
    print("ready", flush=True)
    sys.stdin.read()
"""


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED is of Linux")
def test_a_server_of_a_stranger_on_the_socket_is_refused(tmp_path):
    folder = tmp_path / "state"
    directory = EmbeddedDirectory(folder)
    directory.prepare()
    path = folder / "server.sock"
    stranger = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path), str(STRANGER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert stranger.stdout.readline() == b"ready\n"
    directory.publish(ServerRecord(str(path), stranger.pid, stranger.pid))
    with pytest.raises(ConfigError) as caught:
        start_embedded(folder)
    assert str(caught.value) == (
        f"the socket {path} of the embedded server is answered by a process of the user "
        f"{STRANGER}; end that server, delete {folder / 'server.json'}, and start again"
    )
    stranger.communicate()


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_scratch_folder_is_refused(tmp_path, flaw):
    folder = tmp_path / "scratch"
    folder.mkdir()
    words = spoil(folder, flaw)
    with pytest.raises(ScratchError, match=f"the scratch folder {folder} {words}; give --scratch"):
        open_scratch(folder)
    if flaw == "open to all":
        open_scratch(folder / "own").remove()  # what the hint says
        folder.chmod(0o1777)
        open_scratch(folder).remove()


def test_a_symlink_in_the_scratch_folder_is_not_followed(tmp_path):
    victim, scratch = tmp_path / "victim", tmp_path / "scratch"
    victim.mkdir()
    (victim / "lock").touch()
    scratch.mkdir()
    (scratch / "bytewax-outbox-x").symlink_to(victim)
    linked = scratch / "bytewax-outbox-y"
    linked.mkdir()
    (linked / "lock").symlink_to(victim / "lock")
    before = (victim / "lock").stat().st_atime_ns
    open_scratch(scratch).remove()
    assert (scratch / "bytewax-outbox-x").is_symlink()
    assert (victim / "lock").stat().st_atime_ns == before
    assert linked.is_dir()


def test_an_outbox_that_others_could_change_is_not_handed_to_the_engine(redis_url, tmp_path):
    recovery = RedisRecovery(redis_url, scratch=tmp_path)
    with recovery.session(get_flow()) as session:
        assert session.recovery_config is not None
        (folder,) = tmp_path.glob("bytewax-outbox-*")
        folder.chmod(0o770)
        with pytest.raises(ScratchError, match=r"has the mode 0770.*the engine would unpickle"):
            session.recovery_config  # noqa: B018 - it raises
        folder.chmod(0o700)
        if os.geteuid() == 0:
            part = folder / "part-0.sqlite3"
            spoil(part, "stranger's")
            with pytest.raises(ScratchError, match=r"holds 'part-0\.sqlite3', which belongs to"):
                session.recovery_config  # noqa: B018 - it raises
            os.chown(part, 0, -1)
        folder.rename(tmp_path / "real")
        folder.symlink_to(tmp_path / "real")
        with pytest.raises(ScratchError, match="is no folder"):
            session.recovery_config  # noqa: B018 - it raises
        folder.unlink()
        (tmp_path / "real").rename(folder)


@pytest.mark.parametrize("flaw", ["a link", *FLAWS])
def test_the_folder_of_locks_of_ports_is_refused(tmp_path, monkeypatch, flaw):
    monkeypatch.setattr(ports.tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"bytewax-redis-state-ports-{os.getuid()}"
    if flaw == "a link":
        (tmp_path / "victim").mkdir()
        folder.symlink_to(tmp_path / "victim")
        words = "is a symbolic link"
    else:
        folder.mkdir()
        words = spoil(folder, flaw)
    with pytest.raises(ConfigError, match=f"{words}; delete it, or set TMPDIR"):
        ports._Ports().take(1)
    assert list(tmp_path.glob("*/*")) == []
    folder.unlink() if flaw == "a link" else folder.rmdir()  # what the hint says
    assert len(ports._Ports().take(1)) == 1


@as_root
def test_a_key_file_of_a_stranger_is_refused(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text("")
    path.chmod(0o600)
    Secrets.from_file(path)
    words = spoil(path, "stranger's")
    with pytest.raises(ConfigError, match=f"it {words}; copy it to a file of your own"):
        Secrets.from_file(path)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_checkpoint_file_is_refused(redis_url, tmp_path, flaw):
    path, copy = tmp_path / "dump", tmp_path / "copy"
    with RedisStateBackend.from_url(redis_url, pool_min=1) as backend:
        backend.put("k", 1)
        backend.checkpoint(path)
        words = spoil(path, flaw)
        for read in (backend.verify, lambda p: backend.restore(p, replace=True)):
            with pytest.raises(CheckpointError, match=f"{path} {words}: a pickle in it would run"):
                read(path)
        copy.write_bytes(path.read_bytes())  # what the hint says
        copy.chmod(0o600)
        assert backend.verify(copy).counts.records == 1


def test_what_ones_own_group_may_write_to_is_taken(tmp_path):
    tmp_path.chmod(0o770)
    assert folder_flaw(tmp_path, private=True) is None


@as_root
def test_a_flow_without_a_url_runs_nothing_that_a_stranger_planted(tmp_path):
    planted = tmp_path / "planted"
    folder = tmp_path / ".bytewax-redis-state"
    folder.mkdir(mode=0o777)
    (folder / "lock").touch()
    (folder / "dump.rdb").write_bytes(pickle.dumps(planted))
    spoil(folder, "stranger's")
    with Runner("", tmp_path) as run:
        done = run(redis=False)
    assert done.returncode == 2
    assert f"{folder} belongs to the user {STRANGER}" in done.stderr
    assert not (folder / "server.json").exists()
