"""``bytewax-redis-state bench jobs``: measure flows here and with Bytewax's own recovery.

Exit codes: 0 if every run gave the right result, whatever the figures; 1 if one did not; 2 if the
command could not start.
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
        help="measure flows with this package, with Bytewax's own recovery, and with none",
        description="Run each job with all rivals in turn, on a Redis server started for it "
        "(append-only file, fsync every second), check each result, and print medians, spread and "
        "ratios with their targets. All jobs take about an hour on two idle cores; an estimate is "
        "printed first.",
    )
    made.add_argument(
        "--job",
        action="append",
        metavar="LETTER",
        default=[],
        help="run only this job; may be repeated; see --list",
    )
    made.add_argument("--list", action="store_true", help="print the jobs, and run none")
    made.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="runs of each rival, in turn (default 5, and 3 for jobs that take long)",
    )
    made.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, one run each: shows whether it works, not how fast it is",
    )
    made.add_argument(
        "--scale", type=float, metavar="F", help="share of the full size, up to 1 (default 1)"
    )
    made.add_argument(
        "--every",
        action="store_true",
        help="include the variants that are left out by default, such as 400k keys with Bytewax's "
        "own recovery",
    )
    made.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures to this file, again after each line",
    )
    made.add_argument(
        "--into",
        type=Path,
        metavar="FILE",
        help="add the figures to those of earlier runs in this file",
    )
    made.set_defaults(command=bench_jobs)


def bench_jobs(args: argparse.Namespace) -> int:
    """Run the command.

    :arg args: Its options.
    :returns: 0 or 1.
    :raises ConfigError: If an option is wrong, or the benchmarks are not installed.
    """
    _require_sense(args)
    invocation, jobs = _import("benchmarks.invocation"), _import("benchmarks.jobs")
    unknown = set(args.job) - set(jobs.JOBS)
    if unknown:
        raise ConfigError(f"there is no job {min(unknown)!r}", "bench jobs --list prints all jobs")
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
    return int(invocation.run(extent, json=args.json, into=args.into))


def _require_sense(args: argparse.Namespace) -> None:
    if args.pairs is not None and args.pairs < 1:
        raise ConfigError(f"--pairs is {args.pairs}", "give at least 1")
    if args.scale is not None and not 0 < args.scale <= 1:
        raise ConfigError(f"--scale is {args.scale}", "give a share above 0, up to 1")
    if args.json and args.into:
        raise ConfigError(
            "--json and --into are both given",
            "give --into FILE to add to FILE, or --json FILE to write it again",
        )


def _import(module: str) -> Any:
    """Import a module of the benchmarks: from the bench distribution, or from a checkout."""
    # The benchmarks are files outside of the package, so that users run the ones that we run.
    here = Path(__file__).resolve()
    for place in (here.parent / "shipped", here.parents[3]):
        if (place / "benchmarks" / "invocation.py").is_file():
            if str(place) not in sys.path:
                sys.path.insert(0, str(place))
            return importlib.import_module(module)
    raise ConfigError(
        "the benchmarks are not installed",
        "pip install --force-reinstall bytewax-redis-state-bench",
    )
