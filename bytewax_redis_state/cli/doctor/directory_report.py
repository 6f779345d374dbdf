"""``bytewax-redis-state doctor DIR``: what a recovery directory of stock Bytewax holds and costs.

It changes nothing. Exit codes: 0 if the directory could be read, 2 if not.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytewax_redis_state.dataflow.steps import short_names
from bytewax_redis_state.errors import shown
from bytewax_redis_state.stock.directory import RecoveryDirectory
from bytewax_redis_state.stock.inventory import Inventory, StepCounts, take_inventory
from bytewax_redis_state.stock.resume_estimate import redis_resume_seconds, stock_resume_seconds
from bytewax_redis_state.ui.console import DelayedBar

__all__ = ["report_directory"]

_STEP_WIDTH = 12
_PLENTY = 1000
_COUNTS = {
    "rows": "rows",
    "live_keys": "live\nkeys",
    "idle_window_keys": "idle\nwindows",
    "tombstones": "tomb-\nstones",
    "superseded_rows": "super-\nseded",
    "rows_above_resume": "unfin-\nished",
}


def report_directory(args: argparse.Namespace) -> int:
    """Count what a recovery directory holds, and show it.

    :arg args: Options of the command.
    :returns: 0.
    :raises StateError: If the directory can't be read.
    """
    bar = DelayedBar("reading", "rows")
    try:
        with RecoveryDirectory(args.directory) as opened:
            inventory = take_inventory(opened, bar.update)
    finally:
        bar.stop()
    if args.json:
        print(json.dumps(_report(args.directory, inventory)))
    else:
        _render(args.directory, inventory)
    return 0


def _names(inventory: Inventory) -> dict[str, str]:
    """Name the steps as users know them, as far as step IDs tell."""
    return short_names(step.step_id for step in inventory.steps)


def _redis(total: StepCounts) -> dict[str, Any]:
    """Estimate the same state in Redis: without retention, and with retention of windows."""
    kept = total.live_keys - total.idle_window_keys
    return {
        "rows": total.live_keys,
        "rows_saved": total.rows - total.live_keys,
        "resume_seconds": round(redis_resume_seconds(total.live_keys), 1),
        "dropped_by_retention": total.idle_window_keys,
        "rows_with_retention": kept,
        "resume_seconds_with_retention": round(redis_resume_seconds(kept), 1),
    }


def _report(directory: Path, inventory: Inventory) -> dict[str, Any]:
    total = inventory.total
    seconds = stock_resume_seconds(inventory.partitions, inventory.workers)
    sums = {name: value for name, value in asdict(total).items() if name != "step_id"}
    names = _names(inventory)
    return {
        "directory": str(directory),
        **asdict(inventory),
        "steps": [{"name": names[step.step_id], **asdict(step)} for step in inventory.steps],
        "total": sums,
        "stock": {"resume_seconds": round(seconds, 1)},
        "redis": _redis(total),
    }


# -- for a person ------------------------------------------------------------------------------


def _render(directory: Path, inventory: Inventory) -> None:
    console, table = Console(emoji=False, highlight=False), _table(inventory)
    # A narrow terminal wraps lines; that is better than numbers cut short.
    wide = console.options.update(width=_PLENTY)
    console.width = max(console.width, console.measure(table, options=wide).minimum)
    for line in _about(directory, inventory):
        console.print(shown(line), markup=False, soft_wrap=True)
    console.print(table)
    for line in _costs(inventory):
        console.print(shown(line), markup=False, soft_wrap=True)


def _about(directory: Path, inventory: Inventory) -> list[str]:
    count, copied = len(inventory.partitions), [p.file for p in inventory.partitions if p.copied]
    lines = [
        f"{directory}: {_plural(count, 'partition')}, {_size(inventory.file_bytes)}, "
        f"{_plural(inventory.executions, 'execution')}, "
        f"the next from epoch {inventory.resume_epoch}"
    ]
    if copied:
        lines.append(
            f"read from a temporary copy: {', '.join(copied)} (a killed run left a log, and SQLite "
            "would write files beside a log that it reads)"
        )
    if inventory.outdated_partitions:
        lines.append(
            "Bytewax would refuse to resume: partition "
            f"{_listed(inventory.outdated_partitions)} is older than the others"
        )
    return lines


def _table(inventory: Inventory) -> Table:
    made = Table(
        box=box.SIMPLE_HEAD,
        show_footer=len(inventory.steps) > 1,
        collapse_padding=True,
        pad_edge=False,
    )
    total = inventory.total
    made.add_column("step", "all", overflow="fold", min_width=_STEP_WIDTH)
    for name, title in _COUNTS.items():
        made.add_column(title, f"{getattr(total, name):,}", justify="right", no_wrap=True)
    made.add_column("size", _size(total.bytes), justify="right", no_wrap=True)
    names = _names(inventory)
    for step in inventory.steps:
        counts = (f"{getattr(step, name):,}" for name in _COUNTS)
        made.add_row(Text(shown(names[step.step_id])), *counts, _size(step.bytes))
    return made


def _costs(inventory: Inventory) -> list[str]:
    total, workers = inventory.total, inventory.workers
    stock_seconds = stock_resume_seconds(inventory.partitions, workers)
    redis = _redis(total)
    lines = [
        f"resume with Bytewax alone: about {_time(stock_seconds)} "
        f"with {_plural(workers, 'worker')}",
        f"in Redis: {_plural(redis['rows'], 'key')}, {_plural(redis['rows_saved'], 'row')} fewer; "
        f"resume in about {_time(redis['resume_seconds'])}",
    ]
    if total.idle_window_keys:
        lines.append(
            f"with retention: {_plural(redis['dropped_by_retention'], 'idle window key')} dropped, "
            f"{redis['rows_with_retention']:,} left; "
            f"resume in about {_time(redis['resume_seconds_with_retention'])}"
        )
    if total.rows_above_resume:
        lines.append(
            f"unfinished: {_plural(total.rows_above_resume, 'row')} of epochs that never "
            "completed; Bytewax skips them at the next resume, but may load them after another "
            "crash"
        )
    return lines


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _time(seconds: float) -> str:
    if seconds < 1:
        return "1 s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def _size(count: int) -> str:
    if count < 2**10:
        return f"{count} B"
    return f"{count / 2**10:,.0f} KiB" if count < 2**20 else f"{count / 2**20:,.0f} MiB"
