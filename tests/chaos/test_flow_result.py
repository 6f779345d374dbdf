"""The answer is that of an uninterrupted run; anything else that Redis holds is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from bytewax_redis_state.chaos.flow import FLOW_ID, save_limit
from bytewax_redis_state.chaos.flow_result import differences, expected_result
from bytewax_redis_state.chaos.result_reader import read_result, read_stock_result
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.keys import FlowKeys, shard_of

LIMIT = 1250  # not a multiple of anything: joins are left half done
FLOW = "bytewax_redis_state.chaos.flow:flow"


def run_through(folder, module: str, *options: object) -> None:
    limit = folder / "limit"
    save_limit(limit, LIMIT, final=True)
    environ = {**os.environ, "CHAOS_LIMIT": str(limit), "CHAOS_OUT": str(folder / "out")}
    command = [sys.executable, "-m", module, FLOW, *map(str, options)]
    subprocess.run(command, env=environ, check=True, timeout=BOUND_SECONDS)


@pytest.fixture
def done(redis_url, namespace, tmp_path):
    place = ("--redis", redis_url, "--namespace", namespace, "--scratch", tmp_path)
    run_through(tmp_path, "bytewax_redis_state.run", *place, "-s", 0.1, "--shards", 16)
    return FlowKeys(namespace, FLOW_ID), tmp_path / "out"


def test_it_is_what_an_uninterrupted_run_leaves_and_no_change_goes_unseen(done, client):
    keys, out = done
    right = expected_result(LIMIT)
    assert differences(read_result(client, keys, out), right) == []
    assert all(right.state[step] for step in ("balance", "paid", "visits", "out", "notes"))

    def key_of(step: str, name: str) -> bytes:
        return keys.state(step, shard_of(name, 16), name)

    # A sum is missing, a source is one too far, a joined order has come back.
    client.delete(key_of("balance", "account-3"))
    (waiting,) = sorted(right.state["paid"])[:1]
    client.delete(key_of("paid", waiting))
    wrong = differences(read_result(client, keys, out), right)
    assert len(wrong) == 2
    assert wrong[0].startswith("state of balance: 1 of ")
    assert "'account-3': None instead of" in wrong[0]
    assert wrong[1].startswith("state of paid: 1 of ")


def test_a_line_too_few_or_too_many_is_reported():
    right = expected_result(500)
    line = next(iter(right.lines))
    few, many = (
        replace(right, lines=lines) for lines in (right.lines - {line}, {*right.lines, "x"})
    )
    assert differences(few, right) == [f"1 lines expected, but not put out: {line}"]
    assert differences(many, right) == ["1 lines put out, but not expected: x"]


def test_stock_leaves_the_same_where_nothing_strikes(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run([sys.executable, "-m", "bytewax.recovery", store, "2"], check=True)
    run_through(tmp_path, "bytewax.run", "-r", store, "-s", 1, "-b", 0)
    assert differences(read_stock_result(store, tmp_path / "out"), expected_result(LIMIT)) == []
