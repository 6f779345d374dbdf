"""The command line ``bytewax-redis-state``: thin; parse, call, render.

Exit codes: what the command says, 2 with one line on standard error when something is wrong, 130
after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    :arg argv: Arguments without the program's name; ``None`` for the process's own.
    :returns: The exit code.
    """
    # Here, because the runner imports this package for its console only.
    from bytewax_redis_state.cli.parser import parser
    from bytewax_redis_state.errors import StateError
    from bytewax_redis_state.ui.console import print_error

    # A supervisor's SIGTERM is a person's Ctrl-C: clean up, and go; in the background too, where
    # shells have SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        args = parser().parse_args(argv)
        return int(args.command(args))
    except StateError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
