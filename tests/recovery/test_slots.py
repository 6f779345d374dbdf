"""Rule 20: keys that one script or one command touches share a slot, whatever the names are."""

from __future__ import annotations

from uuid import uuid4

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.client import Pipeline
from redis.crc import key_slot

from bytewax_redis_state.keys import FlowKeys, slot_of
from bytewax_redis_state.scripts import Scripts

from .conftest import FlowInRedis

names = st.text(st.sampled_from("ab{}%:/*[ é€"), min_size=1, max_size=6)


@given(namespace=names, flow_id=names, state_keys=st.sets(names, min_size=1, max_size=6))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_all_keys_of_one_call_share_a_slot(client, monkeypatch, namespace, flow_id, state_keys):
    seen: list[list[bytes]] = []
    run, send = Scripts._run, redis.Redis.execute_command
    put = Pipeline.pipeline_execute_command

    def spied_run(self, name, keys, args, on):
        seen.append(list(keys))
        return run(self, name, keys, args, on)

    def spied_send(self, *args, **options):
        if args[0] in ("MGET", "UNLINK", "DEL", "EXISTS"):
            seen.append(list(args[1:]))
        return send(self, *args, **options)

    def spied_pipe(self, *args, **options):
        if args[0] in ("MGET", "UNLINK", "DEL", "EXISTS"):
            seen.append(list(args[1:]))
        return put(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Scripts, "_run", spied_run)
        patch.setattr(redis.Redis, "execute_command", spied_send)
        patch.setattr(Pipeline, "pipeline_execute_command", spied_pipe)
        flow = FlowInRedis(client, "unused")
        flow.keys = FlowKeys(f"{namespace}{uuid4().hex}", flow_id)
        flow.start()
        flow.commit(1, dict.fromkeys(state_keys, b"x"))
        flow.journal_fold().fold(flow.journal(), 0, 1)
        flow.restorer().read()
        flow.start()
    assert max(map(len, seen)) > 1
    for keys in seen:
        assert len({key_slot(key) for key in keys}) == 1, keys
        assert {key_slot(key) for key in keys} == {slot_of(key) for key in keys}
