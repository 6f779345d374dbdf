"""``bytewax-redis-state doctor --verify``: check a flow in Redis, whether the flow runs or not.

The command only reads. Exit codes: 0 if no finding is an error, 1 if one is, 2 if Redis can't be
read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import (
    RedisConfig,
    Secrets,
    credentials_from_env,
    redis_url_from_env,
)
from bytewax_redis_state.doctor.verification import Verification, verify
from bytewax_redis_state.errors import ConfigError, shown
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.translation import translated
from bytewax_redis_state.ui.console import DelayedBar

__all__ = ["add_options", "verify_flow"]

_LEAST_TIMEOUT = timedelta(seconds=30)
_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def add_options(made: argparse.ArgumentParser, what: argparse._MutuallyExclusiveGroup) -> None:
    """Add the options to the command.

    :arg what: The group of options of which exactly one must be given.
    """
    what.add_argument(
        "--verify", metavar="FLOW", help="check this flow in Redis, and change nothing"
    )
    made.add_argument(
        "--redis",
        metavar="URL",
        help="with --verify: the Redis to look in [env: BYTEWAX_REDIS_URL]",
    )
    made.add_argument(
        "--credentials",
        metavar="MODULE:NAME",
        help="with --verify: a function that returns user and password "
        "[env: BYTEWAX_REDIS_CREDENTIALS]",
    )
    made.add_argument(
        "--namespace",
        default=os.environ.get("BYTEWAX_REDIS_NAMESPACE") or "bytewax",
        metavar="NS",
        help="namespace of the flow (default bytewax) [env: BYTEWAX_REDIS_NAMESPACE]",
    )
    made.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="with --verify: the flow's key file, to check signatures and encryption with "
        "[env: BYTEWAX_REDIS_KEY_FILE]",
    )


def verify_flow(args: argparse.Namespace) -> int:
    """Check a flow and show the findings.

    :arg args: Options of the command.
    :returns: 0 where nothing is wrong, else 1.
    :raises StateError: If Redis can't be read, or holds no key of the flow.
    """
    url = args.redis or redis_url_from_env()
    if url is None:
        raise ConfigError(
            "--verify is given, but no Redis URL",
            "give --redis URL, or set BYTEWAX_REDIS_URL",
        )
    credentials = args.credentials or credentials_from_env()
    if credentials is not None:
        sys.path.append("")  # python -m has it there, so that the runner imports from it, too
    config = RedisConfig(url=url, credentials=credentials).patient(_LEAST_TIMEOUT)
    secrets = Secrets.from_file(args.key_file) if args.key_file else Secrets.from_env()
    codec = Codec(**secrets.given) if secrets != Secrets() else None
    bar = DelayedBar("verifying", "keys")
    with connect(config) as client, translated(config.address):
        try:
            found = verify(client, FlowKeys(args.namespace, args.verify), bar.update, codec)
        finally:
            bar.stop()
    if found.manifest is None and not found.findings:
        raise ConfigError(
            f"Redis at {config.address} holds no key of a flow {args.verify!r} in namespace "
            f"{args.namespace!r}",
            "check the name of the flow, --namespace, and the database in the URL",
        )
    if args.json:
        print(json.dumps(_report(found)))
    else:
        _render(found)
    return 0 if found.is_sound else 1


def _report(found: Verification) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "flow": found.flow_id,
        "namespace": found.namespace,
        "sound": found.is_sound,
        "manifest": None
        if manifest is None
        else {
            "incarnation": manifest.incarnation,
            "generation": manifest.generation,
            "start": manifest.start,
            "resume_epoch": manifest.resume_epoch,
            "partitions": manifest.partitions,
            "shards": manifest.shards,
        },
        "keys": found.keys,
        "entries": found.entries,
        "signed": found.signed,
        "encrypted": found.encrypted,
        "findings": [asdict(finding) for finding in found.findings],
    }


def _render(found: Verification) -> None:
    console, manifest = Console(emoji=False, highlight=False), found.manifest
    if manifest is not None:
        keys = ", ".join(f"{count:,} {name}" for name, count in found.keys.items())
        about = (
            f"{found.flow_id}: generation {manifest.generation} (start {manifest.start or 'none'}) "
            f"from epoch {manifest.resume_epoch}, {manifest.partitions} partitions, "
            f"{manifest.shards} shards; keys: {keys or 'none'}; "
            f"{found.entries:,} journal entries to fold"
        )
        console.print(shown(about), markup=False, soft_wrap=True)
    for finding in found.findings:
        console.print(
            shown(f"{finding.severity}: {finding.what}; {finding.hint}"),
            style=_STYLES[finding.severity],
            markup=False,
            soft_wrap=True,
        )
    counts = Counter(finding.severity for finding in found.findings)
    told = f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes"
    console.print(f"{'sound' if found.is_sound else 'NOT SOUND'}: {told}", markup=False)
