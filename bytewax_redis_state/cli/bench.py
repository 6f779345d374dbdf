"""``bytewax-redis-state bench``: benchmarks and trials that a user can run; one module for each."""

from __future__ import annotations

import argparse

from bytewax_redis_state.cli import bench_chaos, bench_jobs

__all__ = ["add_command"]

_COMMANDS = (bench_jobs, bench_chaos)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, with its own commands, to the command line."""
    made = commands.add_parser(
        "bench",
        help="measure, or strike, flows whose answer is known",
        description="Run flows whose answer is known on this machine: measure them, or strike "
        "them with faults.",
    )
    inner = made.add_subparsers(metavar="WHAT", required=True)
    for module in _COMMANDS:
        module.add_command(inner)
