"""The board that the replicator writes and its dataflow reads."""

from __future__ import annotations

import subprocess
import sys

from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status, StatusBoard

WRITE = """
import sys
from pathlib import Path
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status, StatusBoard
StatusBoard(Path(sys.argv[1])).write(Status(state=ReplicatorState.FENCED, row=7, text="é" * 5000))
"""


def test_a_board_begins_with_nothing(tmp_path):
    board = StatusBoard(tmp_path / "status")
    assert board.read() == Status()
    board.close()


def test_another_process_reads_what_was_written(tmp_path):
    """Rule 6: heartbeat and lag live in shared memory."""
    board = StatusBoard(tmp_path / "status")
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "status")], check=True)
    found = board.read()
    assert (found.state, found.row) == (ReplicatorState.FENCED, 7)
    assert 0 <= found.age < 30
    # Text is cut at the board's end, also inside a character.
    assert found.text.rstrip("\N{REPLACEMENT CHARACTER}").strip("é") == ""
    assert len(found.text) > 1000


def test_a_shorter_text_leaves_nothing_of_a_longer_one(tmp_path):
    board = StatusBoard(tmp_path / "status")
    board.write(Status(text="a long story"))
    board.write(Status(text="short"))
    assert board.read().text == "short"
