"""``bytewax-redis-state bench``: benchmarks, and the fault harness.

Both are parts of the distribution ``bytewax-redis-state-bench``, which the extra ``bench`` names:
together they are a quarter of the code, and no flow needs them. A checkout has everything.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import NoReturn

from bytewax_redis_state.errors import ConfigError

__all__ = ["add_command"]

_HELP = "measure flows, or inject faults into them, and check their results"
_NO_OPTION = "\0"  # a prefix that no argument has


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, with its own commands, to the command line."""
    if find_spec("bytewax_redis_state.chaos") is None:
        # Takes any arguments, --help too, so that each of them gets the same answer.
        made = commands.add_parser("bench", help=_HELP, add_help=False, prefix_chars=_NO_OPTION)
        made.add_argument("rest", nargs="*")
        made.set_defaults(command=_refuse)
        return
    # Imported here, because only now is it known that their parts are installed.
    from bytewax_redis_state.cli.bench import chaos, jobs

    made = commands.add_parser(
        "bench",
        help=_HELP,
        description="Run flows whose right results are known on this machine: measure them, or "
        "inject faults into them.",
    )
    inner = made.add_subparsers(metavar="WHAT", required=True)
    for module in (jobs, chaos):
        module.add_command(inner)


def _refuse(args: argparse.Namespace) -> NoReturn:
    raise ConfigError(
        "the command bench is not installed", "pip install 'bytewax-redis-state[bench]'"
    )
