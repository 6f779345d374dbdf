"""Random sequences of operations on Redis and in memory side by side: they agree at every step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bytewax_redis_state import MemoryStateBackend, RedisConfig, RedisStateBackend
from bytewax_redis_state.backend import StateBackend
from bytewax_redis_state.errors import StateError

# Few keys, so that operations meet; one of them no UTF-8, one with what is special elsewhere.
KEYS = st.sampled_from(["a", "ab", b"a\xff", "*", "{t}:a", "a:b"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
TTLS = st.none() | st.sampled_from([timedelta(hours=1), timedelta(0), timedelta(days=-1)])
SMALL = st.integers(-5, 5) | st.sampled_from([2**63 - 1, -(2**63), 2**63])
Call = Callable[[StateBackend], Any]


def call(name: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Call]]:
    def described(args: tuple[Any, ...]) -> tuple[str, Call]:
        return f"{name}{args!r}", lambda store: getattr(store, name)(*args)

    return st.tuples(*parts).map(described)


def swapped(key: Any, value: Any, *, fresh: bool) -> tuple[str, Call]:
    def swap(store: StateBackend) -> Any:
        version = store.get_with_version(key).version if fresh else "0" * 40
        return store.compare_and_put(key, value, version)

    return f"compare_and_put({key!r}, {value!r}, fresh={fresh})", swap


def moved(source: Any, target: Any, *, fails: bool) -> tuple[str, Call]:
    def move(store: StateBackend) -> Any:
        with store.transaction() as tx:
            value = tx.get(source, "none")
            tx.delete(source)
            tx.put(target, value)
            if fails:
                store.put(source, "changed meanwhile")
            return tx.get(source, 7), tx.get(target)

    return f"move({source!r}, {target!r}, fails={fails})", move


CALLS = st.one_of(
    call("get", KEYS, VALUES),
    call("put", KEYS, VALUES, TTLS),
    call("delete", KEYS),
    call("contains", KEYS),
    call("count", KEYS),
    call("clear", KEYS),
    call("expire", KEYS, TTLS.filter(lambda ttl: ttl is not None)),
    call("persist", KEYS),
    call("batch_get", st.lists(KEYS)),
    call("batch_put", st.dictionaries(KEYS, VALUES), TTLS),
    call("batch_delete", st.lists(KEYS)),
    call("get_and_delete", KEYS),
    call("get_and_put", KEYS, VALUES, TTLS),
    call("set_if_not_exists", KEYS, VALUES, TTLS),
    call("increment", KEYS, SMALL, TTLS),
    call("get_with_version", KEYS),
    st.builds(swapped, KEYS, VALUES, fresh=st.booleans()),
    st.builds(moved, KEYS, KEYS, fails=st.booleans()),
)


def outcome(store: StateBackend, do: Call) -> Any:
    try:
        return do(store)
    except StateError as error:
        return type(error), error.message.split(":")[0]


def image(store: StateBackend) -> dict[Any, Any]:
    keys = sorted(store.list_keys(unique=True), key=repr)
    values = store.batch_get(keys)
    assert list(values) == keys
    return {key: (repr(values[key]), store.ttl(key) is None) for key in keys}


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=st.lists(CALLS, max_size=25))
def test_redis_and_memory_agree(backend: RedisStateBackend, calls: list[tuple[str, Call]]) -> None:
    backend.clear()
    backend.reset_stats()
    memory = MemoryStateBackend(RedisConfig(key_prefix=backend.config.key_prefix))
    for described, do in calls:
        ours, theirs = outcome(memory, do), outcome(backend, do)
        assert (repr(theirs), type(theirs)) == (repr(ours), type(ours)), described
    here, there = backend.stats(), memory.stats()
    assert (here.hits, here.misses) == (there.hits, there.misses)
    assert (here.bytes_in, here.bytes_out) == (there.bytes_in, there.bytes_out)
    assert image(backend) == image(memory)
