"""The entry point of the command line: parse, call the command, turn errors into exit codes.

Exit codes: the command's own, 2 with one line on standard error for an error of this package, 130
after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from bytewax_redis_state.cli.parser import parser
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.ui.console import print_error

__all__ = ["main"]

_INTERRUPTED = 130


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    :arg argv: Arguments without the program's name; ``None`` for those of the process.
    :returns: The exit code.
    """
    # A supervisor's SIGTERM means the same as Ctrl-C: clean up and end. SIGINT is set, too, because
    # a shell starts background commands with SIGINT ignored.
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
