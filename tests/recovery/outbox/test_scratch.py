"""The private folder: leftovers go, what is in use stays."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bytewax_redis_state.errors import ScratchError
from bytewax_redis_state.recovery.outbox.scratch import open_scratch

HOLD = """
import sys
from pathlib import Path
from bytewax_redis_state.recovery.outbox.scratch import open_scratch
print(open_scratch(Path(sys.argv[1])).folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has a folder open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


def test_a_folder_is_private_and_goes_when_it_is_done(tmp_path):
    """Rule 2: a fresh, private (0700), locked directory."""
    scratch = open_scratch(tmp_path / "deep" / "down")
    assert stat.S_IMODE(scratch.folder.stat().st_mode) == 0o700
    scratch.remove()
    assert list((tmp_path / "deep" / "down").iterdir()) == []
    scratch.remove()  # twice does no harm


def test_two_executions_have_two_folders(tmp_path):
    one, two = open_scratch(tmp_path), open_scratch(tmp_path)
    assert one.folder != two.folder
    assert one.folder.exists()
    one.remove()
    assert two.folder.exists()
    two.remove()


def test_leftovers_that_nobody_locks_are_removed_at_start(tmp_path, holder):
    """Rule 2: kill a process; its folder stays while it lives and goes with the next start."""
    folder = tmp_path / holder.stdout.readline().strip()
    (folder / "part-0.sqlite3").write_text("rows")
    open_scratch(tmp_path).remove()
    assert folder.exists(), "a folder in use was removed"
    holder.kill()
    holder.wait()
    open_scratch(tmp_path).remove()
    assert not folder.exists()


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "bytewax-outbox-note").write_text("a file with our prefix")
    (tmp_path / "bytewax-outbox-folder").mkdir()  # without a lock file it can't be ours
    open_scratch(tmp_path).remove()
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["bytewax-outbox-folder", "bytewax-outbox-note", "other"]


@pytest.mark.skipif(os.getuid() != 0, reason="giving a folder to another user needs root")
def test_another_users_leftovers_stay(tmp_path):
    folder = tmp_path / "bytewax-outbox-theirs"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    open_scratch(tmp_path).remove()
    assert folder.exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScratchError, match=r"file.* can't be used") as caught:
        open_scratch(tmp_path / "file")
    assert "--scratch" in caught.value.hint


def test_a_path_that_can_not_be_written_is_refused():
    with pytest.raises(ScratchError, match="/proc/none"):
        open_scratch(Path("/proc/none"))


def test_too_little_room_is_refused(tmp_path):
    scratch = open_scratch(tmp_path)
    with pytest.raises(ScratchError, match="MiB free"):
        scratch.require_room(1 << 60)
    scratch.remove()
