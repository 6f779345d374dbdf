"""A run of the example flow in a child process, which can be killed at any moment.

The child runs ``python -m bytewax_redis_state.cli.demo.child_run NAMESPACE SCRATCH``. It prints
where it resumed, as one line of JSON. The Redis URL is in its environment, not in its arguments, so
that no password shows in the list of processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from bytewax.dataflow import Dataflow

from bytewax_redis_state.cli.demo.clicks_flow import FLOW_ID, ClickLoad, events_read, flow_file
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.redis_recovery import RedisRecovery
from bytewax_redis_state.recovery.reporter import Resumed
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.ui.console import ConsoleReporter, print_error

__all__ = ["CHECKPOINT_INTERVAL", "ChildRun", "ResumePoint", "RunLocations"]

CHECKPOINT_INTERVAL = timedelta(seconds=0.5)
_EPOCH_INTERVAL = timedelta(seconds=0.5)
_GONE_SECONDS = 5.0
_MODULE = "bytewax_redis_state.cli.demo.child_run"


@dataclass(frozen=True)
class ResumePoint:
    """Where a child resumed.

    :arg event: How many events were committed.
    :arg epoch: First epoch of the run.
    :arg keys: State keys restored, of all steps.
    :arg seconds: How long the resume took.
    """

    event: int
    epoch: int
    keys: int
    seconds: float


# -- in the parent -----------------------------------------------------------------------------


@dataclass(frozen=True)
class RunLocations:
    """Where the runs of one flow keep their keys and files.

    :arg config: Where Redis is.
    :arg keys: Of the flow, in a namespace of its own.
    :arg folder: For output, outboxes and logs.
    """

    config: RedisConfig
    keys: FlowKeys
    folder: Path

    @property
    def out(self) -> Path:
        """The folder for closed windows."""
        return self.folder / "out"

    @property
    def scratch(self) -> Path:
        """The folder for outboxes."""
        return self.folder / "scratch"


class ChildRun:
    """One run in a child process, a process group of its own; it starts at once.

    :arg locations: Where its keys and files are; the next run of the flow resumes from there.
    :arg load: The stream that it reads.
    """

    def __init__(self, locations: RunLocations, load: ClickLoad) -> None:
        locations.scratch.mkdir(parents=True, exist_ok=True)
        number = len(list(locations.folder.glob("*.log")))
        self._locations = locations
        self._output = locations.folder / f"{number}.jsonl"
        self._log = locations.folder / f"{number}.log"
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, locations.keys.namespace, str(locations.scratch)],
                # An empty folder: with -m Python imports from the working directory first.
                cwd=locations.scratch,
                env=_environment(locations, load),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """Give its exit code, ``None`` while it runs."""
        return self._process.poll()

    def resume_point(self) -> ResumePoint | None:
        """Tell where it resumed, ``None`` before its engine starts."""
        line, end, _ = self._output.read_text().partition("\n")
        return ResumePoint(**json.loads(line)) if end else None

    def last_error_line(self) -> str:
        """Read the last line of its standard error."""
        lines = self._log.read_text(errors="replace").split("\n")
        return next(
            (line.strip() for line in reversed(lines) if line.strip()), "it printed no error"
        )

    def kill(self) -> None:
        """SIGKILL the dataflow and its replicator, and wait until both are gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + _GONE_SECONDS
        # The replicator is not our child, so it can't be waited for: it is gone when no process of
        # the group is left.
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(0.002)

    def delete_scratch(self) -> None:
        """Delete the scratch folder, as if its disk were lost."""
        shutil.rmtree(self._locations.scratch)


def _environment(locations: RunLocations, load: ClickLoad) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BYTEWAX_")}
    return {**kept, **load.environment(locations.out), "BYTEWAX_REDIS_URL": locations.config.url}


# -- in the child ------------------------------------------------------------------------------


class _ChildReporter(ConsoleReporter):
    """Tells the parent where the flow resumed, before the engine starts."""

    def __init__(self, keys: FlowKeys) -> None:
        super().__init__()
        self._keys = keys

    def resumed(self, resumed: Resumed) -> None:
        super().resumed(resumed)
        config = RedisConfig(url=os.environ["BYTEWAX_REDIS_URL"])
        client = connect(config)
        event = events_read(client, self._keys)
        client.close()
        keys = sum(resumed.keys.values())
        point = ResumePoint(event, resumed.epoch, keys, round(resumed.seconds, 3))
        print(json.dumps(asdict(point)), flush=True)


def _flow() -> Dataflow:
    spec = spec_from_file_location(FLOW_ID, flow_file())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    flow: Dataflow = module.flow
    return flow


def main() -> int:
    """Run the flow to its end.

    :returns: The exit code.
    """
    namespace, scratch = sys.argv[1:]
    recovery = RedisRecovery(
        reporter=_ChildReporter(FlowKeys(namespace, FLOW_ID)),
        namespace=namespace,
        scratch=Path(scratch),
        checkpoint_interval=CHECKPOINT_INTERVAL,
    )
    try:
        recovery.run(_flow(), epoch_interval=_EPOCH_INTERVAL)
    except StateError as error:
        print_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
