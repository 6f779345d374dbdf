"""``bytewax-redis-state demo``: show that a killed flow resumes without losing anything.

Exit codes: 0 if everything is equal, every kill landed in mid-stream and every resume found state;
1 if not; 2 if it could not start.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bytewax_redis_state.cli.demo.child_run import ResumePoint
from bytewax_redis_state.cli.demo.clicks_flow import FLOW_ID, ClickLoad, flow_file
from bytewax_redis_state.cli.demo.kill_test import Comparison, KillTest, KillTestReport
from bytewax_redis_state.cli.demo.temporary_server import temporary_server
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConfigError
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.probe import probe, require_fit
from bytewax_redis_state.server.translation import translated
from bytewax_redis_state.ui.console import ConsoleReporter

__all__ = ["add_command"]

_LEAST_EVENTS, _EVENTS = 10_000, 200_000
_MOST_KILLS, _KILLS = 20, 2
_SEEDS = 1_000_000
_FOLDER_PREFIX = "bytewax-demo-"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    made = commands.add_parser(
        "demo",
        help="kill a flow, resume it, and compare its results with those of an uninterrupted run",
        description="Run an example flow with its state in Redis, SIGKILL it at random moments, "
        "delete its scratch folder, resume it, and compare every window and every total with those "
        "of an uninterrupted run. The exit code is 0 only if all of them are equal.",
    )
    made.add_argument(
        "--kills",
        type=int,
        default=_KILLS,
        metavar="N",
        help=f"how many times to kill it, 0 to {_MOST_KILLS} (default {_KILLS})",
    )
    made.add_argument(
        "--seed", type=int, metavar="N", help="seed of the random moments (default: a random seed)"
    )
    made.add_argument(
        "--events",
        type=int,
        default=_EVENTS,
        metavar="N",
        help=f"events in the stream, at least {_LEAST_EVENTS} (default {_EVENTS}); "
        "every 40 events make one state key",
    )
    made.add_argument(
        "--redis",
        metavar="URL",
        help="use this server, in namespaces that are removed at the end (default: start a "
        "server in a temporary folder)",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.set_defaults(command=demo)


def demo(args: argparse.Namespace) -> int:
    """Run the command.

    :arg args: Its options.
    :returns: 0 or 1.
    :raises StateError: If it can't start.
    """
    _require_sense(args)
    flow_file()
    load = ClickLoad(args.events)
    seed = random.randrange(_SEEDS) if args.seed is None else args.seed
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX)))
        if args.redis:
            config = RedisConfig(url=args.redis)
        else:
            config = stack.enter_context(temporary_server(folder / "server"))
        client = stack.enter_context(connect(config))
        with translated(config.address):
            for warning in require_fit(probe(client)):
                ConsoleReporter().warn(warning)
        with _DemoConsole(load.events, args.kills, for_program=args.json) as shown:
            shown.begin(load, seed, config if args.redis else None)
            report = KillTest(
                config, client, folder, load, kills=args.kills, seed=seed, observer=shown
            ).run()
    if args.json:
        print(json.dumps(asdict(report) | {"ok": report.ok}))
    else:
        shown.verdict(report)
    return 0 if report.ok else 1


def _require_sense(args: argparse.Namespace) -> None:
    if not 0 <= args.kills <= _MOST_KILLS:
        raise ConfigError(f"--kills is {args.kills}", f"give a number from 0 to {_MOST_KILLS}")
    if args.events < _LEAST_EVENTS:
        raise ConfigError(f"--events is {args.events}", f"give at least {_LEAST_EVENTS}")


class _DemoConsole:
    """Shows a person how the kill test proceeds; a program gets the report only."""

    def __init__(self, events: int, kills: int, *, for_program: bool) -> None:
        self._console = Console(stderr=for_program, highlight=False, soft_wrap=True)
        self._speaks = not for_program
        self._runs = kills + 1
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("events,"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=events)

    def __enter__(self) -> _DemoConsole:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def _line(self, text: str, style: str = "") -> None:
        if self._speaks:
            self._console.print(text, style=style, markup=False)

    def begin(self, load: ClickLoad, seed: int, config: RedisConfig | None) -> None:
        """Show the load and the server."""
        where = config.address if config else "a server in a temporary folder"
        self._line(f"{FLOW_ID}: {load.events:,} events, {load.pages:,} pages, seed {seed}")
        self._line(f"state in Redis: {where}")

    def reading(self, run: int, event: int) -> None:
        """Move the progress bar."""
        self._bar.update(self._task, description=f"run {run} of {self._runs}", completed=event)

    def resumed(self, kill: int, point: ResumePoint) -> None:
        """Show a kill, and where the flow resumed."""
        self._line(
            f"kill {kill}: killed at about event {point.event:,}, resumed at epoch "
            f"{point.epoch} with {point.keys:,} keys in {point.seconds:.2f} s"
        )

    def compared(self, what: str, comparison: Comparison) -> None:
        """Show a comparison."""
        text = f"{what}: {comparison.equal:,} of {comparison.compared:,} equal"
        self._line(text, "" if comparison.ok else "red")

    def verdict(self, report: KillTestReport) -> None:
        """Show the result."""
        if report.ok:
            self._line(f"equal to the uninterrupted run, in {report.seconds:.0f} s", "green")
        else:
            self._line(f"failed after {report.seconds:.0f} s: {report.failure}", "bold red")
