"""What the contract tests share: recovery files, and dataflows in processes of their own.

This process reads the files with Python's SQLite; the engine, which links another SQLite, only ever
runs in a child.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any, NamedTuple

from bytewax.recovery import init_db_dir

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

OUTBOX_SCHEMA = """
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  epoch INTEGER NOT NULL,
  step_id TEXT,
  state_key TEXT,
  change BLOB
);
CREATE TRIGGER divert_snaps BEFORE INSERT ON snaps BEGIN
  INSERT INTO outbox (epoch, step_id, state_key, change)
  VALUES (NEW.snap_epoch, NEW.step_id, NEW.state_key, NEW.ser_change);
  SELECT RAISE(IGNORE);
END;
CREATE TRIGGER mark_first_commit AFTER INSERT ON commits BEGIN
  INSERT INTO outbox (epoch) VALUES (NEW.commit_epoch);
END;
CREATE TRIGGER mark_next_commit AFTER UPDATE ON commits BEGIN
  INSERT INTO outbox (epoch) VALUES (NEW.commit_epoch);
END;
"""


class Row(NamedTuple):
    """One row of an outbox; a commit mark where it has no step."""

    id: int
    epoch: int
    step_id: str | None
    state_key: str | None
    change: bytes | None

    @property
    def is_mark(self) -> bool:
        return self.step_id is None


class Snap(NamedTuple):
    """A row to put in the engine's own ``snaps`` before it starts."""

    step_id: str
    state_key: str
    epoch: int
    change: bytes | None


@dataclass(frozen=True)
class Outcome:
    """How one process of a dataflow ended; that there is one says that its ``finally`` ran."""

    error: str | None
    is_exception: bool | None
    message: str
    causes: list[str]
    calls: list[Any]
    seconds: float
    stderr: str


def part_file(db_dir: Path, part: int) -> Path:
    return db_dir / f"part-{part}.sqlite3"


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10, isolation_level=None)


def query(path: Path, sql: str, *parameters: object) -> list[tuple]:
    with closing(connect(path)) as connection:
        return connection.execute(sql, parameters).fetchall()


def execute(path: Path, sql: str, *parameters: object) -> None:
    query(path, sql, *parameters)


def make_db(
    db_dir: Path,
    parts: int,
    *,
    resume_epoch: int | None = None,
    ex_num: int = 0,
    snaps: dict[int, Iterable[Snap]] | None = None,
    outbox: bool = True,
) -> Path:
    """Make fresh partitions, set to resume at an epoch and with rows to load."""
    db_dir.mkdir(parents=True, exist_ok=True)
    init_db_dir(db_dir, parts)
    if resume_epoch is not None:
        execute(
            part_file(db_dir, 0),
            "INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (?, 1, ?)",
            ex_num,
            resume_epoch,
        )
    for part in range(parts):
        with closing(connect(part_file(db_dir, part))) as connection:
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change)"
                " VALUES (?, ?, ?, ?)",
                (snaps or {}).get(part, ()),
            )
            connection.execute("COMMIT")
            if outbox:
                connection.executescript(OUTBOX_SCHEMA)
    return db_dir


def read_outbox(path: Path) -> list[Row]:
    sql = "SELECT id, epoch, step_id, state_key, change FROM outbox ORDER BY id"
    return [Row(*values) for values in query(path, sql)]


def rows_of(path: Path) -> list[Row]:
    return [row for row in read_outbox(path) if not row.is_mark]


def marks_of(path: Path) -> list[int]:
    return [row.epoch for row in read_outbox(path) if row.is_mark]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = BOUND_SECONDS) -> Any:
    """Wait for a condition and hand back what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still waiting after {seconds} s: {what}"
        time.sleep(0.005)
    return value


class Engine:
    """A dataflow that runs in a child process; one process of a cluster with ``addresses``."""

    def __init__(
        self,
        flow: str,
        db_dir: Path | None = None,
        *,
        workers: int | None = None,
        addresses: list[str] | None = None,
        process: int = 0,
        epoch_ms: int = 20,
        interrupt_on: Path | None = None,
        **args: object,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outcome_file = Path(self._folder.name, "outcome.json")
        self._stderr = Path(self._folder.name, "stderr")
        self._started = time.monotonic()
        spec = {
            "flow": flow,
            "args": args,
            "db_dir": None if db_dir is None else str(db_dir),
            "workers": workers,
            "addresses": addresses,
            "process": process,
            "epoch_ms": epoch_ms,
            "interrupt_on": None if interrupt_on is None else str(interrupt_on),
            "outcome_file": str(self._outcome_file),
        }
        with self._stderr.open("w") as stderr:
            self.popen = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("child.py")), json.dumps(spec)],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self, seconds: float = BOUND_SECONDS) -> Outcome:
        """Wait for the end of the process; kill it and fail when it takes too long."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        taken = time.monotonic() - self._started
        stderr = self._stderr.read_text()
        assert self._outcome_file.exists(), f"the child left nothing: {stderr}"
        return Outcome(**json.loads(self._outcome_file.read_text()), seconds=taken, stderr=stderr)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.running:
            self.kill()
        self._folder.cleanup()


def run(flow: str, db_dir: Path | None = None, **settings: Any) -> Outcome:
    """Run a flow to its end."""
    with Engine(flow, db_dir, **settings) as engine:
        return engine.wait()


def run_well(flow: str, db_dir: Path | None = None, **settings: Any) -> list[Any]:
    """Run a flow that should end by itself; hand back what it recorded."""
    outcome = run(flow, db_dir, **settings)
    assert outcome.error is None, f"{outcome.error}: {outcome.message}\n{outcome.stderr}"
    return outcome.calls


class Gate:
    """Questions from inside a running flow, answered here; the asker waits for the answer."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self._folder.name, "gate"))
        self._answer = answer
        self._listener = Listener(self.path, "AF_UNIX", backlog=32)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Any) -> None:
        with connection:
            while True:
                try:
                    question = connection.recv()
                except (EOFError, OSError):
                    return
                connection.send(self._answer(question))

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.close()
        self._folder.cleanup()
