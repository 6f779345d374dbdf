"""``bytewax-redis-state bench jobs``: time flows beside Bytewax without and with its own recovery.

Exit codes: 0 if every run gave the right result, whatever the figures; 1 if one did not; 2 if it
could not begin.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from bytewax_redis_state.errors import ConfigError

__all__ = ["add_command"]

_QUICK_SCALE, _QUICK_PAIRS = 0.02, 1


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    made = commands.add_parser(
        "jobs",
        help="time flows beside Bytewax's own recovery and beside none",
        description="Run jobs by rivals in turn, on a Redis of its own (append-only, fsync every "
        "second), check each result, and print medians, spread and ratios with their targets. "
        "All of it takes about an hour on two idle cores; an estimate comes first.",
    )
    made.add_argument(
        "--job",
        action="append",
        metavar="LETTER",
        default=[],
        help="only this job; may be given more than once; see --list",
    )
    made.add_argument("--list", action="store_true", help="say which jobs there are, and end")
    made.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="runs of each rival, in turn (default 5, and 3 of those that take long)",
    )
    made.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, once each: whether it works, not how fast it is",
    )
    made.add_argument(
        "--scale", type=float, metavar="F", help="share of the full size, up to 1 (default 1)"
    )
    made.add_argument(
        "--every",
        action="store_true",
        help="also the variants that are left out by default, such as 400k keys for stock",
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures here, anew after each line"
    )
    made.add_argument(
        "--into",
        type=Path,
        metavar="FILE",
        help="merge the figures into those of earlier runs in this file",
    )
    made.set_defaults(command=bench_jobs)


def bench_jobs(args: argparse.Namespace) -> int:
    """Run the command.

    :arg args: Its options.
    :returns: 0 or 1.
    :raises ConfigError: If an option can't be right, or the benchmarks are not installed.
    """
    _require_sense(args)
    session, jobs = _import("benchmarks.session"), _import("benchmarks.jobs")
    unknown = set(args.job) - set(jobs.JOBS)
    if unknown:
        raise ConfigError(f"there is no job {min(unknown)!r}", "see --list")
    if args.list:
        for letter, text in jobs.JOBS.items():
            print(f"{letter}  {text}")
        return 0
    extent = jobs.Extent(
        jobs=tuple(args.job),
        scale=args.scale or (_QUICK_SCALE if args.quick else 1.0),
        pairs=args.pairs or (_QUICK_PAIRS if args.quick else None),
        every=args.every,
    )
    return int(session.run(extent, json=args.json, into=args.into))


def _require_sense(args: argparse.Namespace) -> None:
    if args.pairs is not None and args.pairs < 1:
        raise ConfigError(f"--pairs is {args.pairs}", "give at least 1")
    if args.scale is not None and not 0 < args.scale <= 1:
        raise ConfigError(f"--scale is {args.scale}", "give a share above 0, up to 1")
    if args.json and args.into:
        raise ConfigError("--json and --into are both given", "--into FILE keeps what FILE holds")


def _import(module: str) -> Any:
    """Import a module of the benchmarks: shipped here, or in the checkout that this is run from."""
    here = Path(__file__).resolve()
    for place in (here.parent / "shipped", here.parents[2]):
        if (place / "benchmarks" / "session.py").is_file():
            if str(place) not in sys.path:
                sys.path.insert(0, str(place))
            return importlib.import_module(module)
    raise ConfigError("the benchmarks are not installed", "install bytewax-redis-state anew")
