"""``bytewax-redis-state doctor``: its options, and which report they ask for.

Exit codes: 0 if what was asked for could be read and nothing is wrong with it, 1 if something is
wrong, 2 if it could not be read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bytewax_redis_state.cli.doctor import acl_report, directory_report, verify_report

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    made = commands.add_parser(
        "doctor",
        help="inspect a recovery directory of stock Bytewax, check a flow in Redis, or print "
        "the ACL rules of a Redis user",
        description="Read a recovery directory that stock Bytewax has written, without changing "
        "it, and show what its rows are, how long a resume takes, and what moving to Redis would "
        "save. The flow must not be running. With --verify, check a flow in Redis, running or "
        "not. With --acl, print the rights that a user of Redis needs.",
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "directory",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="the recovery directory (the -r of the flow): it holds part-*.sqlite3 files",
    )
    verify_report.add_options(made, what)
    acl_report.add_options(made, what)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.set_defaults(command=doctor)


def doctor(args: argparse.Namespace) -> int:
    """Run the command.

    :arg args: Its options.
    :returns: 0, or 1 where something is wrong with a flow in Redis.
    :raises StateError: If the directory, or Redis, can't be read.
    """
    if args.verify is not None:
        return verify_report.verify_flow(args)
    if args.acl is not None:
        return acl_report.print_rules(args)
    return directory_report.report_directory(args)
