"""A Redis that answers, but takes no writes, is away: named once, waited for; nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.keys import FlowKeys
from tests.conftest import RedisProcess
from tests.ports import free_ports
from tests.recovery.bulky import Job, Told

LOADABLE = ("--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")
FILLING = 6000  # keys, each of which takes a millisecond to load


@contextmanager
def readonly(server: RedisProcess, client: redis.Redis) -> Iterator[None]:
    """As a master that was demoted."""
    client.replicaof("127.0.0.1", free_ports(1)[0])
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def misconf(server: RedisProcess, client: redis.Redis) -> Iterator[None]:
    """It can't write its snapshot: a folder is in the way."""
    (server.folder / "dump.rdb" / "full").mkdir(parents=True)
    client.config_set("save", "3600 1000000")
    client.bgsave()
    _wait(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    client.config_set("save", "")


@contextmanager
def loading(server: RedisProcess, client: redis.Redis) -> Iterator[None]:
    """It reads its append-only file for some seconds."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(FILLING):
            pipe.set(f"filling-{number}", "x")
        pipe.execute()
    client.config_set("key-load-delay", 1000)
    again = redis.Redis.from_url(server.url, socket_timeout=None)  # it answers when it has loaded
    load = threading.Thread(target=again.execute_command, args=("DEBUG", "LOADAOF"))
    load.start()
    yield
    load.join()
    again.close()


def _wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + BOUND_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("refusing", "named"),
    [(readonly, "is a replica"), (misconf, "to persist to disk"), (loading, "is loading")],
    ids=["readonly", "misconf", "loading"],
)
def test_a_redis_that_refuses_writes_is_away_and_named(
    start_redis, tmp_path, eventually, capfd, refusing, named
) -> None:
    server, told = start_redis(*LOADABLE), Told()
    client = redis.Redis.from_url(server.url)
    recovery = RedisRecovery(server.url, scratch=tmp_path, reporter=told, max_lag=1_000_000)
    shown = []

    def act(job: Job) -> None:
        eventually(lambda: job.given > 500)
        with refusing(server, client):
            eventually(lambda: told.warnings or named in shown_now())
        before = job.given
        eventually(lambda: job.given > before + 500)

    def shown_now() -> str:
        shown.append(capfd.readouterr().err)
        return "".join(shown)

    Job(recovery).run(act)
    lines = [line for line in shown_now().splitlines() if "redis away" in line]
    assert sum(named in line for line in lines) == 1, lines
    assert "redis back" in "".join(shown)
    position, total = answer(client)
    client.close()
    assert position > 500
    assert total == position * (position - 1) // 2


def answer(client: redis.Redis) -> tuple[int, int]:
    """Position of the source, and the sum of all sums."""
    keys, found = FlowKeys("bytewax", "bulky"), {}
    for key in client.scan_iter(match=keys.state_pattern, count=10_000):
        step, _, name = keys.parse_state(key)
        bound = Codec().bind(namespace="bytewax", flow_id="bulky", step=step)
        found.setdefault(step, {})[name] = bound.decode(name, client.get(key))
    (position,) = found["in"].values()
    return position, sum(total for total, _ in found["sum"].values())
