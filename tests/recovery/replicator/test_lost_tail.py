"""Rule 4: a Redis that comes back without its last writes gets them again, from the margin."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery import session as session_module
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.server.client import connect
from tests.recovery.bulky import Job

KEYS = FlowKeys("bytewax", "bulky")
_FAST = timedelta(seconds=0.1)


class Forgetful:
    """A Redis that is set back to what it was when it last saved."""

    def __init__(self, server):
        self.server = server

    def remember(self) -> None:
        with connect(RedisConfig(url=self.server.url)) as client:
            client.save()

    def forget(self) -> None:
        self.server.kill()
        self.server.start()

    def applied(self) -> int:
        with connect(RedisConfig(url=self.server.url)) as client:
            return int(client.hget(self._progress(client), "trimmed"))

    def _progress(self, client) -> bytes:
        return KEYS.progress(0, read_manifest(client, KEYS).generation)

    def totals(self) -> dict[str, int]:
        codec = Codec().bind(namespace="bytewax", flow_id="bulky", step="sum")
        with connect(RedisConfig(url=self.server.url)) as client:
            found = {}
            for key in client.scan_iter(KEYS.state_pattern, 1000):
                step, _, name = KEYS.parse_state(key)
                if step == "sum":
                    found[name] = codec.decode(name, client.get(key))[0]
            return found


@pytest.fixture
def redis(start_redis):
    return Forgetful(start_redis("--appendonly", "no"))


def recovery(redis, folder) -> RedisRecovery:
    return RedisRecovery(redis.server.url, scratch=folder, checkpoint_interval=_FAST)


def expected(given: int) -> dict[str, int]:
    return {f"k{n}": sum(range(n, given, 50)) for n in range(50)}


def test_the_tail_is_sent_and_folded_again(redis, tmp_path, eventually):
    def act(job):
        for _ in range(2):
            eventually(lambda since=job.given: job.given > since + 500)
            redis.remember()
            folded = redis.applied()
            eventually(lambda folded=folded: redis.applied() > folded + 10)
            redis.forget()
            eventually(lambda folded=folded: redis.applied() > folded + 20)

    job = Job(recovery(redis, tmp_path))
    job.run(act)
    assert redis.totals() == expected(job.given)


def test_a_tail_longer_than_the_margin_stops_the_flow(redis, tmp_path, eventually, monkeypatch):
    monkeypatch.setattr(session_module, "MARGIN_SECONDS", 0.2)

    def act(job):
        eventually(lambda: job.given > 500)
        redis.remember()
        row = job.session._watchdog.status.row
        eventually(lambda: job.session._watchdog.status.row > row + 200)
        before = redis.applied()
        eventually(lambda: redis.applied() > before + 100)
        redis.forget()
        job.ended.wait(BOUND_SECONDS)

    with pytest.raises(StateLostError, match=r"has lost more than the last 0\.2 s of partition 0"):
        Job(recovery(redis, tmp_path)).run(act)
    # Started again it resumes from what Redis has, and is exact.
    again = Job(recovery(redis, tmp_path))
    again.run(lambda job: eventually(lambda: job.given > 2000))
    assert redis.totals() == expected(again.given)
