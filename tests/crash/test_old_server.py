"""A flow on the oldest server that is supported: killed, resumed, its windows dropped, exact."""

from __future__ import annotations

import pytest

from bytewax_redis_state.recovery.records.manifest import read_manifest

from .conftest import MakeJob
from .reference_flows import Clicks

pytestmark = pytest.mark.crash


def test_a_flow_on_redis_6_2_is_killed_and_ends_exact(
    make_job: MakeJob, start_redis, redis_62
) -> None:
    server = start_redis(binary=redis_62)
    job = make_job(Clicks(12_000), server.url)
    assert job.client.info("server")["redis_version"].startswith("6.2.")
    flow = job.start()
    before = job.reach_midstream(flow, 4)
    flow.kill_groups()
    flow.lose_scratch()
    job.finish(after=before)
    assert job.differences() == []
    assert job.leftover_keys() == []
    manifest = read_manifest(job.client, job.keys)
    assert manifest is not None
    assert "per_minute" in manifest.retention
