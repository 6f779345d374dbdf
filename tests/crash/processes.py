"""The processes of the crash tests: those of the fault harness, with a step to stop at or a bug."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bytewax_redis_state.chaos.execution import Execution
from bytewax_redis_state.chaos.flow_process import FlowProcess, ResumeMessage
from bytewax_redis_state.chaos.waiting import wait_until

__all__ = [
    "HERE",
    "RUNNER",
    "Execution",
    "FlowProcess",
    "ResumeMessage",
    "start_process",
    "trigger_of",
    "wait_until",
]

HERE = Path(__file__).parent
RUNNER = HERE / "faulty_run.py"


def trigger_of(folder: Path) -> Path:
    """Give the file whose appearance lets a process's replicator stop itself at its step."""
    return folder / "now"


def start_process(
    flow: Path,
    *,
    folder: Path,
    environ: Mapping[str, str],
    options: Sequence[object],
    at_step: str = "",
    bug: str = "",
) -> FlowProcess:
    """Start one process of a dataflow.

    :arg at_step: ``kill:STEP`` or ``stop:STEP``: what the process does to itself there;
        ``replicator:STEP``: its replicator stops itself there, once its :func:`trigger_of` exists.
    :arg bug: Planted bug, see ``planted_bugs.py``.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BYTEWAX_", "CRASH_"))}
    clean.update(environ)
    program: list[object] = ["-m", "bytewax_redis_state.run"]
    if at_step or bug:
        program = [RUNNER]
        clean.update(CRASH_AT_STEP=at_step, CRASH_BUG=bug, CRASH_NOW=str(trigger_of(folder)))
    scratch = folder / "scratch"
    command = [sys.executable, *program, f"{flow}:flow", "--scratch", scratch, *options]
    return FlowProcess(command, clean, folder, scratch)
