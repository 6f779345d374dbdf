"""The parser of the command line: each command adds its own options and names its function.

Invariant: wrong arguments raise :class:`.ConfigError`, which is shown in one line.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import NoReturn

from bytewax_redis_state.cli.bench import command as bench
from bytewax_redis_state.cli.demo import command as demo
from bytewax_redis_state.cli.doctor import command as doctor
from bytewax_redis_state.errors import ConfigError

__all__ = ["parser"]

_COMMANDS = (demo, doctor, bench)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, f"see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Make the parser.

    :returns: A parser whose result has ``command``, a function that takes the result.
    """
    made = _Parser(
        prog="bytewax-redis-state",
        description="Try out, check and measure dataflows that keep their state in Redis.",
    )
    made.add_argument(
        "--version", action="version", version=f"%(prog)s {version('bytewax-redis-state')}"
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add_command(commands)
    return made
