"""Idle keys start anew and busy ones go on, through the real engine on every entry point."""

from __future__ import annotations

from typing import Any

from .entry_points import run_thread, run_two_processes, run_two_threads
from .idle_keys import BUSY, IDLE, ROUNDS, counting


def per_key(record: list[Any]) -> dict[str, list[int]]:
    return {key: [count for of, count in record if of == key] for key, _count in record}


ON = {key: list(range(1, ROUNDS + 1)) for key in BUSY}
NEW = ON | {key: [1, 1] for key in IDLE}
KEPT = ON | {key: [1, 2] for key in IDLE}


def test_one_worker_lets_idle_keys_start_anew() -> None:
    assert per_key(run_thread(counting, sharded=True, retained=True)) == NEW


def test_two_workers_let_idle_keys_start_anew() -> None:
    assert per_key(run_two_threads(counting, sharded=True, retained=True)) == NEW


def test_two_processes_let_idle_keys_start_anew() -> None:
    assert per_key(run_two_processes("idle_keys", "counting", sharded=True, retained=True)) == NEW


def test_nothing_expires_unless_it_is_asked_for() -> None:
    assert per_key(run_thread(counting, sharded=True)) == KEPT
