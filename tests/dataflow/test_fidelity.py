"""Every stateful operator puts out per key what it puts out in stock Bytewax, in the same order."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from .entry_points import run_thread, run_two_processes, run_two_threads
from .operator_catalog import CASES, catalog

PerKey = dict[tuple[str, str], list[str]]


def per_key(record: list[Any]) -> PerKey:
    values: PerKey = defaultdict(list)
    for case, key, value in record:
        values[case, key].append(value)
    return dict(values)


@pytest.fixture(scope="module")
def stock() -> PerKey:
    return per_key(run_thread(catalog, sharded=False))


def test_every_case_puts_something_out(stock: PerKey) -> None:
    silent = {case for case in CASES if not any(found.startswith(case) for found, _key in stock)}
    assert not silent


@pytest.mark.parametrize("fast", [True, False])
def test_one_worker_puts_out_the_same(stock: PerKey, fast: bool) -> None:
    assert per_key(run_thread(catalog, sharded=True, fast=fast)) == stock


def test_two_workers_put_out_the_same(stock: PerKey) -> None:
    assert per_key(run_two_threads(catalog, sharded=False)) == stock


@pytest.mark.parametrize("fast", [True, False])
def test_two_workers_of_shards_put_out_the_same(stock: PerKey, fast: bool) -> None:
    assert per_key(run_two_threads(catalog, sharded=True, fast=fast)) == stock


def test_two_processes_put_out_the_same(stock: PerKey) -> None:
    assert per_key(run_two_processes("operator_catalog", "catalog", sharded=False)) == stock


@pytest.mark.parametrize("fast", [True, False])
def test_two_processes_of_shards_put_out_the_same(stock: PerKey, fast: bool) -> None:
    put_out = run_two_processes("operator_catalog", "catalog", sharded=True, fast=fast)
    assert per_key(put_out) == stock


@pytest.mark.parametrize("fast", [True, False])
def test_lifetimes_longer_than_the_run_change_nothing(stock: PerKey, fast: bool) -> None:
    assert per_key(run_thread(catalog, sharded=True, retained=True, fast=fast)) == stock
