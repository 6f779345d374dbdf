"""Run an unmodified flow with its state in Redis: ``python -m bytewax_redis_state.run FLOW``.

It takes the options and environment variables of ``python -m bytewax.run``, with ``--redis URL``
in place of ``-r DIR``. Exit codes: 0 at the end of input, 2 with one line on standard error when
something is wrong, 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bytewax.dataflow import Dataflow
from bytewax.run import _locate_dataflow, _prepare_import

from bytewax_redis_state.config import (
    SECRETS_ENVIRONMENT,
    RedisConfig,
    Secrets,
    credentials_from_env,
    parse_duration,
    parse_retention,
    parse_size,
)
from bytewax_redis_state.errors import ConfigError, StateError
from bytewax_redis_state.metrics.prometheus import expose
from bytewax_redis_state.recovery.child_processes import in_each_child
from bytewax_redis_state.recovery.interrupts import Interrupts
from bytewax_redis_state.recovery.redis_recovery import RedisRecovery
from bytewax_redis_state.recovery.stopping import EXIT_FAILED, EXIT_INTERRUPTED
from bytewax_redis_state.ui.console import ConsoleReporter, print_error

__all__ = ["main", "parser"]

_STOCK_RECOVERY = ("-r", "--recovery-directory", "-b", "--backup-interval")


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rename(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW")
    return old, new


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line; defaults come from the environment."""
    env = os.environ.get
    made = argparse.ArgumentParser(
        prog="python -m bytewax_redis_state.run",
        description="Run a Bytewax dataflow with its state in Redis.",
    )
    made.add_argument(
        "import_str",
        metavar="FLOW",
        help="path or module, and the name of the flow or of a function that makes it, as in "
        "flows/orders.py:flow or orders:get_flow('eu'); the default name is flow",
    )
    made.add_argument(
        "-s",
        "--snapshot-interval",
        type=_duration,
        default=env("BYTEWAX_SNAPSHOT_INTERVAL"),
        metavar="SECONDS",
        help="length of an epoch; a crash repeats about one epoch (default 10) "
        "[env: BYTEWAX_SNAPSHOT_INTERVAL]",
    )
    _add_redis_options(made.add_argument_group("State in Redis"))
    _add_shipping_options(made.add_argument_group("On the way to Redis"))
    _add_value_options(made.add_argument_group("Shards and values"))
    _add_idle_options(made.add_argument_group("Idle state"))
    _add_change_options(made.add_argument_group("A flow that has changed"))
    _add_scaling_options(made.add_argument_group("Scaling"))
    return made


def _add_redis_options(group: argparse._ArgumentGroup) -> None:
    env = os.environ.get
    group.add_argument(
        "--redis",
        metavar="URL",
        help="URL of the Redis that keeps the state: redis://, rediss://, unix://, "
        "redis+sentinel:// or redis+cluster:// (default: start a server that keeps it in "
        "./.bytewax-redis-state) "
        "[env: BYTEWAX_REDIS_URL]",
    )
    group.add_argument(
        "--credentials",
        metavar="MODULE:NAME",
        help="function that returns (user, password), or a password, for each new connection; or a "
        "redis.CredentialProvider. For a URL without a password "
        "[env: BYTEWAX_REDIS_CREDENTIALS]",
    )
    group.add_argument(
        "--namespace",
        default=env("BYTEWAX_REDIS_NAMESPACE") or "bytewax",
        metavar="NS",
        help="prefix of all keys in Redis; flows of different namespaces never meet (default "
        "bytewax) [env: BYTEWAX_REDIS_NAMESPACE]",
    )
    group.add_argument(
        "--durability",
        metavar="LEVEL",
        help="where a change must be before it is deleted from the scratch disk: memory of Redis "
        "(default), aof (the primary's disk), or replicas:N (memory of N replicas) "
        "[env: BYTEWAX_REDIS_DURABILITY]",
    )
    group.add_argument(
        "--take-over",
        action="store_true",
        help="start although the flow is running; the running processes of the flow end",
    )
    group.add_argument(
        "--join-timeout",
        type=_duration,
        default="60",
        metavar="SECONDS",
        help="how long to wait at the start for the other processes of -a (default 60)",
    )


def _add_shipping_options(group: argparse._ArgumentGroup) -> None:
    env = os.environ.get
    group.add_argument(
        "--checkpoint-interval",
        type=_duration,
        default=env("BYTEWAX_REDIS_CHECKPOINT_INTERVAL") or "10",
        metavar="SECONDS",
        help="time between two checkpoints, which bring the keys in Redis up to date (default 10) "
        "[env: BYTEWAX_REDIS_CHECKPOINT_INTERVAL]",
    )
    group.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="folder for changes that Redis does not have yet; its files may be lost at any time "
        "(default: the system's temporary folder) [env: BYTEWAX_REDIS_SCRATCH]",
    )
    group.add_argument(
        "--max-lag",
        type=_size,
        metavar="SIZE",
        help="size of the changes that Redis may lack before the sources pause, as in 512MiB "
        "(default: half of what the scratch disk has free, at most 1GiB) "
        "[env: BYTEWAX_REDIS_MAX_LAG]",
    )


def _add_value_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--shards",
        type=int,
        default=64,
        metavar="N",
        help="number of shards that state is split into; the first start of a flow fixes it "
        "(default 64)",
    )
    group.add_argument(
        "--no-pickle",
        action="store_true",
        help="refuse to write and to read pickled state, which can run code when it is read, and "
        "never call a method of a class, or import a module, to rebuild a value; without it, "
        "pickles are read only in steps that this flow has pickled state of",
    )
    group.add_argument(
        "--allow-import",
        action="append",
        default=[],
        metavar="MODULE",
        help="with --no-pickle: import this module if a value needs one of its classes",
    )
    group.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="TOML or JSON file with the keys that sign and encrypt values; only its owner and "
        "group may be able to read it. The keys can also be in the environment "
        f"[env: {', '.join(SECRETS_ENVIRONMENT)}]",
    )
    group.add_argument(
        "--compression",
        choices=("zstd", "zlib"),
        help="compress values of 1 KiB and more; zstd needs the extra zstd "
        "[env: BYTEWAX_REDIS_COMPRESSION]",
    )
    group.add_argument(
        "--no-fast-paths",
        action="store_true",
        help="run every operator with Bytewax's own logic objects "
        "[env: BYTEWAX_REDIS_FAST_PATHS=false]",
    )


def _add_idle_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--retention",
        action="append",
        metavar="STEP=DURATION",
        help="drop an idle key of this step after this time, as in orders.sum=7d; forever drops "
        "none. Window steps have a retention by default. May be repeated "
        "[env: BYTEWAX_REDIS_RETENTION, separated by commas]",
    )
    group.add_argument(
        "--window-grace",
        type=_duration,
        metavar="DURATION",
        help="how long a window step keeps an idle key that no window needs any longer "
        "(default 24h) [env: BYTEWAX_REDIS_WINDOW_GRACE]",
    )
    group.add_argument(
        "--downtime-allowance",
        type=_duration,
        metavar="DURATION",
        help="how long the flow may be stopped before Redis itself drops idle keys (default 7d) "
        "[env: BYTEWAX_REDIS_DOWNTIME_ALLOWANCE]",
    )
    group.add_argument(
        "--on-expired",
        choices=("continue", "fail"),
        default="continue",
        help="what a start does if the flow was stopped for longer than the downtime allowance and "
        "Redis has dropped keys: continue (default), or fail before anything is written",
    )


def _add_change_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--drop-step",
        action="append",
        default=[],
        metavar="STEP",
        help="delete the state of a step that the flow no longer has; may be repeated",
    )
    group.add_argument(
        "--rename-step",
        action="append",
        type=_rename,
        default=[],
        metavar="OLD=NEW",
        help="give the state of a step to the step with the new name; may be repeated",
    )
    group.add_argument(
        "--drop-partition",
        action="append",
        default=[],
        metavar="STEP:PARTITION",
        help="delete the state of a source or sink partition that its step no longer lists; may be "
        "repeated",
    )


def _add_scaling_options(group: argparse._ArgumentGroup) -> None:
    env = os.environ.get
    group.add_argument(
        "-w",
        "--workers-per-process",
        type=int,
        default=env("BYTEWAX_WORKERS_PER_PROCESS") or "1",
        metavar="N",
        help="number of workers of this process (default 1) [env: BYTEWAX_WORKERS_PER_PROCESS]",
    )
    group.add_argument(
        "-i",
        "--process-id",
        type=int,
        default=env("BYTEWAX_PROCESS_ID"),
        metavar="N",
        help="with -a: number of this process, from 0 [env: BYTEWAX_PROCESS_ID]",
    )
    group.add_argument(
        "-a",
        "--addresses",
        default=env("BYTEWAX_ADDRESSES"),
        help='addresses of all processes, as in "host0:2101;host1:2101" [env: BYTEWAX_ADDRESSES]',
        metavar="ADDRESSES",
    )


@dataclass(frozen=True)
class _ClusterMember:
    """Say which process of the cluster this is; both are ``None`` where there is no cluster."""

    process_id: int | None
    addresses: tuple[str, ...] | None


def _cluster_member(args: argparse.Namespace) -> _ClusterMember:
    """Read which process this is from the options, or from what Bytewax's Helm chart sets."""
    env = os.environ
    process_id, addresses = args.process_id, args.addresses
    if process_id is None and {"BYTEWAX_POD_NAME", "BYTEWAX_STATEFULSET_NAME"} <= env.keys():
        ordinal = env["BYTEWAX_POD_NAME"].replace(env["BYTEWAX_STATEFULSET_NAME"] + "-", "")
        try:
            process_id = int(ordinal)
        except ValueError:
            raise ConfigError(
                f"BYTEWAX_POD_NAME {env['BYTEWAX_POD_NAME']!r} holds no process number",
                "give the number of this process with -i",
            ) from None
    if process_id is not None and addresses is None:
        addresses = _addresses_from_file(process_id)
    if addresses is None:
        return _ClusterMember(None, None)
    listed = tuple(part.strip() for part in addresses.split(";") if part.strip())
    process_id = process_id or 0  # as in Bytewax
    if not 0 <= process_id < len(listed):
        raise ConfigError(
            f"-i is {process_id}, and -a lists {len(listed)} addresses",
            f"give a number from 0 to {len(listed) - 1}",
        )
    return _ClusterMember(process_id, listed)


def _addresses_from_file(process_id: int) -> str:
    path = os.environ.get("BYTEWAX_HOSTFILE_PATH")
    if path is None:
        raise ConfigError(
            f"-i {process_id} is given without -a", "list the addresses of all processes with -a"
        )
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise ConfigError(
            f"BYTEWAX_HOSTFILE_PATH can't be read: {error}",
            "list the addresses of all processes with -a",
        ) from error
    return ";".join(line.strip() for line in lines if line.strip())


def _flow(import_str: str) -> Dataflow:
    path = Path(import_str.partition(":")[0])
    if path.suffix == ".py" and not path.is_file():
        raise ConfigError(
            f"there is no file {str(path)!r}",
            "check the path; FLOW is written as path/to/flow.py:flow",
        )
    module, attribute = _prepare_import(import_str)
    try:
        flow: Dataflow = _locate_dataflow(module, attribute)  # type: ignore[no-untyped-call]
    except ModuleNotFoundError as error:
        if error.name != module:  # an import of the flow's fails: the traceback says where
            raise
        raise ConfigError(
            f"there is no module {module!r}", "check the name; FLOW is written as module:flow"
        ) from None
    except (AttributeError, RuntimeError) as error:
        if not str(error).startswith(("Failed to find", "A valid Bytewax")):
            raise
        raise ConfigError(
            str(error).rstrip("."), "name the variable that holds the flow, as in flow.py:NAME"
        ) from None
    return flow


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser()
    args, unknown = made.parse_known_args(argv)
    if unknown:
        stock = any(option.startswith(_STOCK_RECOVERY) for option in unknown)
        hint = "; leave out -r and -b: the state is in Redis" if stock else ""
        made.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def _refuse_stock_recovery() -> None:
    directory = os.environ.get("BYTEWAX_RECOVERY_DIRECTORY")
    if directory:
        raise ConfigError(
            f"BYTEWAX_RECOVERY_DIRECTORY is {directory!r}, but this command keeps state in Redis",
            "unset the variable, or run python -m bytewax.run",
        )


def _require_shared_server(args: argparse.Namespace, member: _ClusterMember) -> None:
    if member.addresses and len(member.addresses) > 1 and not _redis_url(args):
        raise ConfigError(
            f"{len(member.addresses)} processes can't share the embedded server",
            "give all processes the same --redis URL",
        )


def _redis(args: argparse.Namespace) -> RedisConfig | None:
    url = _redis_url(args)
    credentials = args.credentials or credentials_from_env()
    if url is None and credentials is not None:
        raise ConfigError(
            "--credentials is given without --redis", "give --redis URL, or set BYTEWAX_REDIS_URL"
        )
    return None if url is None else RedisConfig(url=url, credentials=credentials)


def _redis_url(args: argparse.Namespace) -> str | None:
    return args.redis or os.environ.get("BYTEWAX_REDIS_URL") or None


def _run(args: argparse.Namespace) -> None:
    expose()
    _refuse_stock_recovery()
    member = _cluster_member(args)
    _require_shared_server(args, member)
    given: dict[str, Any] = {
        "scratch": args.scratch,
        "retention": parse_retention(args.retention) if args.retention else None,
        "window_grace": args.window_grace,
        "downtime_allowance": args.downtime_allowance,
        "durability": args.durability,
        "max_lag": args.max_lag,
        "fast_paths": False if args.no_fast_paths else None,
        "compression": args.compression,
        "secrets": Secrets.from_file(args.key_file) if args.key_file else None,
    }
    # The settings read from the environment where an option is not given.
    settings = {name: value for name, value in given.items() if value is not None}
    reporter = ConsoleReporter()
    recovery = RedisRecovery(
        _redis(args),
        reporter=reporter,
        namespace=args.namespace,
        checkpoint_interval=args.checkpoint_interval,
        shards=args.shards,
        allow_pickle=not args.no_pickle,
        allow_imports=frozenset(args.allow_import),
        take_over=args.take_over,
        drop_steps=frozenset(args.drop_step),
        rename_steps=dict(args.rename_step),
        drop_partitions=frozenset(args.drop_partition),
        join_timeout=args.join_timeout,
        on_expired=args.on_expired,
        **settings,
    )
    with Interrupts() as interrupts:
        flow = _flow(args.import_str)
        interrupts.require_none()
    with closing(reporter):
        recovery.run(
            flow,
            epoch_interval=args.snapshot_interval,
            workers_per_process=args.workers_per_process,
            process_id=member.process_id,
            addresses=member.addresses,
        )


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _leave_signals_to_child() -> None:
    """Have a forked child react to signals as it does under ``python -m bytewax.run``."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    :arg argv: Arguments without the program's name; ``None`` for the process's own.
    :returns: The exit code.
    """
    args = _arguments(argv)
    # A supervisor's SIGTERM is a person's Ctrl-C: stop without end of input, drain, go. SIGINT is
    # named too, because shells start background jobs with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    leave_to_children = in_each_child(_leave_signals_to_child)
    try:
        _run(args)
    except StateError as error:
        print_error(error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        leave_to_children()
    return 0


if __name__ == "__main__":
    sys.exit(main())
