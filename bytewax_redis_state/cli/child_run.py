"""A run of the example flow in a child: a process group of its own, to be killed at any moment.

The child runs ``python -m bytewax_redis_state.cli.child_run NAMESPACE SCRATCH``, and says on its
standard output, as one line of JSON, what it resumed. Where Redis is comes in its environment, so
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

from bytewax_redis_state.cli.clicks import FLOW_ID, ClickLoad, events_read, flow_file
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.redis_recovery import RedisRecovery
from bytewax_redis_state.recovery.reporter import Resumed
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.ui.console import ConsoleReporter, print_error

__all__ = ["CHECKPOINT_INTERVAL", "ChildRun", "Resume", "RunPlace"]

CHECKPOINT_INTERVAL = timedelta(seconds=0.5)
_EPOCH_INTERVAL = timedelta(seconds=0.5)
_GONE_SECONDS = 5.0
_MODULE = "bytewax_redis_state.cli.child_run"


@dataclass(frozen=True)
class Resume:
    """What a child went on from.

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
class RunPlace:
    """Where the runs of one flow keep their things.

    :arg config: Where Redis is.
    :arg keys: Of the flow, in a namespace of its own.
    :arg folder: For output, scratch and logs.
    """

    config: RedisConfig
    keys: FlowKeys
    folder: Path

    @property
    def out(self) -> Path:
        """Where closed windows go."""
        return self.folder / "out"

    @property
    def scratch(self) -> Path:
        """Where outboxes go."""
        return self.folder / "scratch"


class ChildRun:
    """One run in a child; it begins at once.

    :arg place: Where it keeps its things; the next run of the flow goes on from there.
    :arg load: What it reads.
    """

    def __init__(self, place: RunPlace, load: ClickLoad) -> None:
        place.scratch.mkdir(parents=True, exist_ok=True)
        number = len(list(place.folder.glob("*.log")))
        self._place = place
        self._said = place.folder / f"{number}.jsonl"
        self._log = place.folder / f"{number}.log"
        with self._said.open("wb") as said, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, place.keys.namespace, str(place.scratch)],
                # An empty folder, so that no module in the working directory shadows another.
                cwd=place.scratch,
                env=_environment(place, load),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=log,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """Tell how it ended, ``None`` while it runs."""
        return self._process.poll()

    def resume(self) -> Resume | None:
        """Tell what it went on from, ``None`` before its engine starts."""
        line, end, _ = self._said.read_text().partition("\n")
        return Resume(**json.loads(line)) if end else None

    def last_words(self) -> str:
        """Read the last line that it said on standard error."""
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def kill(self) -> None:
        """SIGKILL the dataflow and its replicator, and wait until both are gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + _GONE_SECONDS
        # The replicator is not our child: it is gone when its group has nobody left.
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(0.002)

    def delete_scratch(self) -> None:
        """Delete the scratch folder, as a lost disk would."""
        shutil.rmtree(self._place.scratch)


def _environment(place: RunPlace, load: ClickLoad) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BYTEWAX_")}
    return {**kept, **load.environment(place.out), "BYTEWAX_REDIS_URL": place.config.url}


# -- in the child ------------------------------------------------------------------------------


class _ChildReporter(ConsoleReporter):
    """Tells the parent as well what was resumed, while the engine still waits."""

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
        resume = Resume(event, resumed.epoch, keys, round(resumed.seconds, 3))
        print(json.dumps(asdict(resume)), flush=True)


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
