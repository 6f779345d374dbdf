"""What every state backend does, whatever keeps its keys."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.errors import (
    ArgumentError,
    ConfigError,
    ConflictError,
    DecodeError,
    EncodeError,
    LockError,
    LockHeldError,
    LockLostError,
    NotACounterError,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
SIGNING = Codec(signing_keys={"a": b"k" * 32}, sign_with="a")
VALUES = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, 10**30, 1.5, float("inf"), "", "text",
    "7", b"", b"7", b"\xff\x00", [], [1, [2]], (), (1, (2,)), {}, {"a": {1: (2,)}}, {1, 2},
    frozenset({"x"}), Decimal("1.10"), UUID(int=7), datetime(2024, 1, 2, tzinfo=timezone.utc),
    timedelta(days=-1, microseconds=3), bytearray(b"x"), 1 + 2j,
]  # fmt: skip
KEYS = ["k", "ключ", b"\xff\xfe", b"\x00", "a b\nc", "{tag}:k", "*?[a-z]\\", "x" * 5000, "k:k:k"]


@dataclass
class Point:
    x: int
    y: tuple[int, ...]


# --- one key -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*VALUES, Point(1, (2, 3))], ids=repr)
def test_a_value_comes_back_equal_and_of_its_type(store, value):
    store.put("k", value)
    read = store.get("k", "missing")
    assert read == value
    assert type(read) is type(value)
    [(key, batched)] = store.batch_get(["k"]).items()
    assert (key, batched, type(batched)) == ("k", value, type(value))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: repr(key)[:20])
def test_a_key_is_any_text_or_bytes(store, key):
    store.put(key, "value")
    assert store.get(key) == "value"
    assert store.contains(key)
    assert list(store.list_keys()) == [key if key != b"\x00" else "\0"]
    assert store.batch_get([key]) == {key: "value"}
    assert store.delete(key)
    assert not store.delete(key)
    assert not store.contains(key)


def test_text_and_its_utf_8_are_one_key(store):
    store.put("ключ", 1)
    assert store.get("ключ".encode()) == 1
    store.put("ключ".encode(), {"a": 2})
    assert store.get("ключ") == {"a": 2}


def test_a_missing_value_is_the_default_and_none_is_a_value(store):
    assert store.get("k") is None
    assert store.get("k", 7) == 7
    store.put("k", None)
    assert store.get("k", 7) is None
    assert store.contains("k")


def test_a_value_is_kept_as_it_was_when_it_was_put(store):
    value = {"a": [1]}
    store.put("k", value)
    value["a"].append(2)
    store.get("k")["a"].append(3)
    assert store.get("k") == {"a": [1]}


@pytest.mark.parametrize("key", ["", b"", 7, None, bytearray(b"k"), "\ud800"], ids=repr)
def test_what_is_no_key_is_refused(store, key):
    calls = (
        lambda: store.get(key),
        lambda: store.put(key, 1),
        lambda: store.delete(key),
        lambda: store.contains(key),
        lambda: store.batch_put({"good": 1, key: 2} if key != bytearray(b"k") else {"": 1}),
        lambda: store.batch_get(["good", key] if key != bytearray(b"k") else [""]),
        lambda: store.increment(key),
        lambda: store.get_and_delete(key),
        lambda: store.ttl(key),
    )
    for call in calls:
        with pytest.raises(ArgumentError):
            call()
    assert store.count() == 0


def test_a_reserved_key_is_refused(store):
    with pytest.raises(ArgumentError, match="reserved"):
        store.put("__bytewax__:lock:x", 1)


def test_a_value_that_cannot_be_stored_is_named_with_its_path(store):
    with pytest.raises(EncodeError, match=r"'k'.*value\['a'\]\[1\].*_thread.lock"):
        store.put("k", {"a": [1, threading.Lock()]})
    with pytest.raises(EncodeError, match=r"'bad'"):
        store.batch_put({"good": 1, "bad": threading.Lock()})
    assert store.count() == 0


# --- time to live --------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [timedelta(0), -SECOND, 0, 5, 1.5, "5"], ids=repr)
def test_what_is_no_ttl_is_refused(store, ttl):
    store.put("k", 1)
    calls = (
        lambda: store.put("k", 2, ttl=ttl),
        lambda: store.put_with_ttl("k", 2, ttl),
        lambda: store.batch_put({"k": 2}, ttl=ttl),
        lambda: store.set_if_not_exists("new", 2, ttl=ttl),
        lambda: store.increment("new", ttl=ttl),
        lambda: store.get_and_put("k", 2, ttl=ttl),
        lambda: store.compare_and_put("new", 2, None, ttl=ttl),
        lambda: store.expire("k", ttl),
        lambda: store.lock("x", ttl=ttl),
    )
    for call in calls:
        with pytest.raises(ArgumentError, match="ttl is"):
            call()
    assert (store.get("k"), store.ttl("k"), store.count()) == (1, None, 1)


def assert_left(store, key, ttl):
    left = store.ttl(key)
    assert left is not None, key
    assert ttl - 20 * SECOND < left <= ttl


def test_every_write_takes_a_ttl(store):
    store.put("put", {}, ttl=MINUTE)
    store.put_with_ttl("put_with_ttl", {}, MINUTE)
    store.batch_put({f"batch{n}": {} for n in range(250)}, ttl=MINUTE)
    store.set_if_not_exists("set_if_not_exists", {}, ttl=MINUTE)
    store.increment("increment", ttl=MINUTE)
    store.get_and_put("get_and_put", {}, ttl=MINUTE)
    store.compare_and_put("compare_and_put", {}, None, ttl=MINUTE)
    keys = list(store.list_keys())
    assert len(keys) == 256
    for key in keys[:20]:
        assert_left(store, key, MINUTE)


def test_a_value_goes_when_its_time_is_over(store):
    store.put("k", 1, ttl=timedelta(milliseconds=500))
    store.batch_put({"a": 1, "b": 2}, ttl=timedelta(milliseconds=500))
    assert store.get("k") == 1
    time.sleep(0.7)
    assert store.get("k") is None
    assert not store.contains("k")
    assert store.batch_get(["k", "a", "b"]) == {}
    assert list(store.list_keys()) == []
    assert not store.expire("k", MINUTE)
    assert store.increment("k") == 1


def test_expire_and_persist(store):
    assert not store.expire("k", MINUTE)
    assert not store.persist("k")
    assert store.ttl("k") is None
    store.put("k", 1)
    assert store.ttl("k") is None
    assert not store.persist("k")
    assert store.expire("k", MINUTE)
    assert_left(store, "k", MINUTE)
    assert store.persist("k")
    assert store.ttl("k") is None


def test_a_put_without_ttl_takes_the_end_away(store):
    store.put("k", 1, ttl=MINUTE)
    store.put("k", 2)
    assert store.ttl("k") is None


def test_the_default_ttl_holds_for_what_has_none(make_store):
    store = make_store(default_ttl=MINUTE)
    store.put("put", 1)
    store.put("own", 1, ttl=60 * MINUTE)
    store.batch_put({"batch": 1})
    store.increment("increment")
    store.set_if_not_exists("set_if_not_exists", 1)
    for key in ("put", "batch", "increment", "set_if_not_exists"):
        assert_left(store, key, MINUTE)
    assert_left(store, "own", 60 * MINUTE)


def test_reading_refreshes_where_asked(make_store):
    store = make_store(default_ttl=MINUTE, refresh_on_read=True)
    store.batch_put({"a": 1, "b": {}, "stays": 3}, ttl=SECOND)
    store.persist("stays")
    assert store.get("a") == 1
    assert_left(store, "a", MINUTE)
    assert store.ttl("b") <= SECOND
    assert store.batch_get(["b", "stays", "missing"]) == {"b": {}, "stays": 3}
    assert_left(store, "b", MINUTE)
    assert store.get("stays") == 3
    assert store.ttl("stays") is None
    assert store.get("missing", 7) == 7


def test_refreshing_needs_a_default_ttl(make_store):
    with pytest.raises(ConfigError, match=r"refresh_on_read.*default_ttl"):
        make_store(refresh_on_read=True)


# --- all keys ------------------------------------------------------------------------------------


def test_keys_are_listed_counted_and_cleared_by_prefix(store):
    store.batch_put({f"{stem}{n}": n for stem in "ab" for n in range(1500)})
    assert sorted(store.list_keys("a", unique=True)) == sorted(f"a{n}" for n in range(1500))
    assert (store.count(), store.count("a"), store.count("b1", unique=True)) == (3000, 1500, 611)
    assert store.clear("a") == 1500
    assert store.count() == 1500
    assert store.clear() == 1500
    assert (store.count(), store.clear(), list(store.list_keys())) == (0, 0, [])


@pytest.mark.parametrize("literal", ["a*", "b?", "[c]", "d\\", "a*b?[c]\\", "{e}", b"\xff*"])
def test_a_prefix_has_no_special_characters(store, literal):
    raw = literal.encode() if isinstance(literal, str) else literal
    decoys = ["axx", "bx1", "c1", "d1", "axbx1", "axb?c\\1", "e1", b"\xffx"]
    store.batch_put(dict.fromkeys([raw + b"1", *decoys], "value"))
    assert list(store.list_keys(literal)) in ([raw + b"1"], [(raw + b"1").decode(errors="ignore")])
    assert store.count(literal) == 1
    assert store.clear(literal) == 1
    assert store.count() == len(decoys)


@pytest.mark.parametrize("own", ["a*b?[c]\\", "no-colon", "{tag}", "p r e", "ключ:"])
def test_the_backends_own_prefix_has_none_either(make_store, own):
    one, other = make_store(key_prefix=own), make_store(key_prefix="axbxc:")
    one.put("k", 1)
    other.put("k", 2)
    assert (list(one.list_keys()), one.count(), one.get("k")) == (["k"], 1, 1)
    assert one.clear() == 1
    assert other.get("k") == 2
    other.clear()


def test_keys_values_and_items_are_listed_by_prefix(store):
    users = {f"user:{n}": n for n in range(2100)}
    store.batch_put(users | {"other": [1]})
    for unique in (False, True):
        assert set(store.keys("user:", unique=unique)) == set(users)
        assert set(store.values("user:", unique=unique)) == set(users.values())
        assert dict(store.items("user:", unique=unique)) == users
    assert dict(store.items()) == users | {"other": [1]}
    assert len(list(store.keys())) >= 2101
    assert list(store.items("none")) == list(store.values("none")) == list(store.keys("none")) == []


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 99, 100, 101, 1000, 2345])
@pytest.mark.parametrize("ttl", [None, MINUTE], ids=["endless", "ttl"])
def test_batches_of_any_size(store, number, ttl):
    items = {f"k{n}": (n, str(n)) for n in range(number)}
    store.batch_put(items, ttl=ttl)
    assert store.batch_get(items) == items
    assert store.count() == number
    if number:
        assert (store.ttl("k0") is None) == (ttl is None)
    assert store.batch_delete([*items, "missing"]) == number
    assert store.batch_get(items) == {}


def test_missing_is_told_apart_from_none(store):
    store.batch_put({"none": None, "zero": 0})
    read = store.batch_get(["none", "missing", "zero", "none"])
    assert read == {"none": None, "zero": 0}


def test_a_batch_of_many_bytes_goes_in_parts(store):
    items = {f"k{n}": bytes([n]) * 1_500_000 for n in range(8)}
    store.batch_put(items)
    assert store.batch_get(items) == items


def test_a_key_twice_in_a_batch_counts_once(store):
    store.batch_put({"k": 1, b"k": 2})
    assert store.get("k") == 2
    assert store.batch_get(["k", b"k"]) == {"k": 2, b"k": 2}
    assert store.batch_delete(["k", "k", b"k"]) == 1


# --- atomic --------------------------------------------------------------------------------------


def test_get_and_delete(store):
    assert store.get_and_delete("k", 7) == 7
    store.put("k", {"a": (1,)})
    assert store.get_and_delete("k") == {"a": (1,)}
    assert not store.contains("k")


def test_get_and_put(store):
    assert store.get_and_put("k", "one", default=7) == 7
    assert store.get_and_put("k", "two") == "one"
    assert store.get("k") == "two"


def test_set_if_not_exists(store):
    assert store.set_if_not_exists("k", None)
    assert not store.set_if_not_exists("k", 2)
    assert store.get("k", 7) is None


def test_compare_and_put_follows_versions(store):
    assert store.get_with_version("k", 7) == (7, None)
    assert store.compare_and_put("k", "x", "0" * 40) is None
    first = store.compare_and_put("k", {"n": 1}, None)
    assert first
    assert store.compare_and_put("k", {"n": 9}, None) is None
    assert store.get_with_version("k") == ({"n": 1}, first)
    second = store.compare_and_put("k", {"n": 2}, first)
    assert second not in (None, first)
    assert store.compare_and_put("k", {"n": 9}, first) is None
    assert store.get_with_version("k") == ({"n": 2}, second)


def test_counters(store):
    assert store.increment("n") == 1
    assert store.increment("n", 41) == 42
    assert store.increment("n", by=-50) == -8
    assert store.get("n") == -8
    assert type(store.get("n")) is int
    store.put("n", 100)
    assert store.increment("n", 0) == 100


@pytest.mark.parametrize("edge", [2**63 - 1, -(2**63), 2**53 + 1])
def test_counters_are_exact_to_64_bits(store, edge):
    assert store.increment("n", edge) == edge
    assert store.get("n") == edge


@pytest.mark.parametrize(("value", "by"), [(2**63 - 1, 1), (-(2**63), -1), (1, 2**63 - 1)])
def test_a_sum_beyond_64_bits_is_refused(store, value, by):
    store.put("n", value)
    with pytest.raises(NotACounterError, match=r"'n'.*64 bits"):
        store.increment("n", by)
    assert store.get("n") == value


@pytest.mark.parametrize("value", ["7", 1.0, None, True, 2**63, [1], b"7"], ids=repr)
def test_only_integers_of_64_bits_are_counted_up(store, value):
    store.put("n", value)
    with pytest.raises(NotACounterError, match="'n'"):
        store.increment("n")
    assert store.get("n") == value


@pytest.mark.parametrize("by", [1.0, "1", None, True, 2**63], ids=repr)
def test_what_is_added_is_an_integer(store, by):
    with pytest.raises(ArgumentError, match="by is"):
        store.increment("n", by)


def test_a_counter_keeps_its_time(store):
    store.increment("n", ttl=MINUTE)
    store.increment("n", ttl=60 * MINUTE)
    assert_left(store, "n", MINUTE)


def test_a_signing_codec_refuses_counters(make_store):
    store = make_store(codec=SIGNING)
    with pytest.raises(NotACounterError, match="encrypts or signs"):
        store.increment("n")
    store.put("n", 7)
    assert store.get("n") == 7


# --- codecs --------------------------------------------------------------------------------------


def test_a_plain_integer_is_no_signed_value(make_store):
    plain, signed = make_store(), make_store(codec=SIGNING)
    plain.put("n", 7)
    plain.put("v", "x")
    with pytest.raises(DecodeError, match="'n'"):
        signed.get("n")
    with pytest.raises(DecodeError, match="'v'"):
        signed.get("v")
    with pytest.raises(DecodeError, match="'v'"):
        signed.batch_get(["v"])


def test_a_wrong_key_is_refused(make_store):
    make_store(codec=SIGNING).put("k", {"a": 1})
    other = make_store(codec=Codec(signing_keys={"b": b"k" * 32}, sign_with="b"))
    forged = make_store(codec=Codec(signing_keys={"a": b"x" * 32}, sign_with="a"))
    for store in (other, forged):
        with pytest.raises(DecodeError, match="'k'"):
            store.get("k")


def test_encrypted_values_come_back(make_store):
    pytest.importorskip("cryptography")
    store = make_store(codec=Codec(encryption_keys={"a": b"k" * 32}, encrypt_with="a"))
    store.batch_put({"k": {"a": (1,)}, b"\xff": 7, "n": 5})
    assert store.batch_get(["k", b"\xff", "n"]) == {"k": {"a": (1,)}, b"\xff": 7, "n": 5}


def test_without_codec_values_are_bytes(make_store):
    store = make_store(codec=None)
    store.put("k", b"\x00raw")
    assert store.get("k") == b"\x00raw"
    assert store.increment("n", 5) == 5
    assert store.get("n") == b"5"
    with pytest.raises(EncodeError, match=r"'k'.*dict, and codec=None takes bytes"):
        store.put("k", {})


# --- locks ---------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_and_a_growing_token(store):
    with store.lock("x") as one:
        first = one.token
        assert one.held
        with pytest.raises(LockHeldError, match="'x'"), store.lock("x", wait=SECOND / 20):
            pass
        with store.lock("y", wait=timedelta(0)):
            pass
    with store.lock("x", wait=timedelta(0)) as two:
        assert two.token > first
    assert not two.held


def test_a_lock_is_waited_for(store):
    order = []
    holder = store.lock("x")
    holder.acquire()

    def wait():
        with store.lock("x"):
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    order.append("first")
    holder.release()
    thread.join(BOUND_SECONDS)
    assert order == ["first", "second"]


def test_a_lock_is_renewed_while_it_is_held(store):
    with store.lock("x", ttl=3 * SECOND) as lock:
        time.sleep(4)
        assert lock.held
        lock.check()
        with pytest.raises(LockHeldError), store.lock("x", wait=timedelta(0)):
            pass


def test_a_lock_that_ran_out_goes_on_to_the_next_with_a_higher_token(store):
    late = store.lock("x", ttl=timedelta(milliseconds=50), renew=False)
    late.acquire()
    with store.lock("x", wait=10 * SECOND) as next_one:
        assert next_one.token > late.token
        assert late.lost
        with pytest.raises(LockLostError, match="'x'"):
            late.check()
        with pytest.raises(LockLostError, match="'x'"):
            late.release()
        assert next_one.held


def test_a_lock_is_given_back_when_the_block_raises(store):
    with pytest.raises(ZeroDivisionError), store.lock("x"):
        raise ZeroDivisionError
    with store.lock("x", wait=timedelta(0)):
        pass


def test_a_lock_in_wrong_hands_is_refused(store):
    lock = store.lock("x")
    with pytest.raises(LockError, match="not held"):
        lock.release()
    with lock, pytest.raises(LockError, match="held already"):
        lock.acquire()
    with pytest.raises(ArgumentError, match="wait is"):
        store.lock("x", wait=-SECOND)


def test_a_lock_and_a_value_may_have_one_name_and_clear_leaves_locks(store):
    store.put("x", 1)
    with store.lock("x") as lock:
        store.put("x", 2)
        assert (list(store.list_keys()), store.count(), store.clear()) == (["x"], 1, 1)
        assert lock.held
        token = lock.token
    with store.lock("x") as lock:
        assert lock.token > token


# --- transactions --------------------------------------------------------------------------------


def test_a_transaction_writes_at_its_end(store):
    a, b, c, d, e = (f"{{t}}{name}" for name in "abcde")  # a cluster wants a common tag
    store.batch_put({a: 10, b: {"n": 1}, c: "x"})
    with store.transaction() as tx:
        tx.put(a, tx.get(a) - 3)
        tx.put(b, (1,), ttl=MINUTE)
        tx.delete(c)
        tx.put(d, None)
        assert (tx.get(a), tx.get(b), tx.get(c, 7), tx.get(d, 7)) == (7, (1,), 7, None)
        assert (tx.contains(d), tx.contains(c), tx.contains(e)) == (True, False, False)
        assert store.batch_get([a, b, c, d]) == {a: 10, b: {"n": 1}, c: "x"}
    assert store.batch_get([a, b, c, d]) == {a: 7, b: (1,), d: None}
    assert_left(store, b, MINUTE)


def test_a_transaction_that_raises_writes_nothing(store):
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:  # noqa: PT012
        tx.put("a", 1)
        raise ZeroDivisionError
    assert store.count() == 0


CHANGES = {
    "changed": lambda store: store.put("{t}read", 2),
    "deleted": lambda store: store.delete("{t}read"),
    "made": lambda store: store.put("{t}absent", 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_transaction_fails_if_what_it_read_has_changed(store, change):
    store.put("{t}read", 1)
    with pytest.raises(ConflictError, match=r"read|absent"), store.transaction() as tx:  # noqa: PT012
        tx.get("{t}read")
        tx.get("{t}absent")
        tx.put("{t}written", 1)
        change(store)
    assert not store.contains("{t}written")


def test_writes_that_were_not_read_do_not_conflict(store):
    with store.transaction() as tx:
        tx.put("a", "mine")
        store.put("a", "theirs")
        store.put("b", "theirs")
    assert store.batch_get("ab") == {"a": "mine", "b": "theirs"}


def test_an_empty_transaction_does_nothing(store):
    with store.transaction():
        pass


def test_a_transaction_with_a_tag_takes_no_other_keys(store):
    with store.transaction("acct") as tx:
        tx.put("{acct}:a", 1)
        with pytest.raises(ArgumentError, match=r"'b'.*'acct'"):
            tx.put("b", 1)
        with pytest.raises(ArgumentError, match="'acct'"):
            tx.get("{other}:a")
    assert list(store.list_keys()) == ["{acct}:a"]


def test_transact_tries_again(store):
    store.put("n", {"n": 0})
    disturb = itertools.count()

    def work(tx):
        n = tx.get("n")["n"]
        if next(disturb) < 2:
            store.put("n", {"n": n + 10})
        tx.put("n", {"n": n + 1})
        return n + 1

    assert store.transact(work, retry=2) == 21
    assert store.get("n") == {"n": 21}


def test_transact_gives_up(store):
    def work(tx):
        store.put("n", tx.get("n", 0) + 1)
        tx.put("n", 0)

    with pytest.raises(ConflictError):
        store.transact(work, retry=2)
    assert store.get("n") == 3


# --- what it says of itself ----------------------------------------------------------------------


def test_statistics(store):
    store.reset_stats()
    store.put("k", b"12345")
    store.get("k")
    store.get("missing")
    store.batch_put({f"k{n}": n for n in range(10)})
    store.batch_get([f"k{n}" for n in range(15)])
    with pytest.raises(ArgumentError):
        store.get("")
    stats = store.stats()
    assert dict(stats.operations) == {"put": 1, "get": 2, "batch_put": 1, "batch_get": 1}
    assert dict(stats.errors) == {"ArgumentError": 1}
    assert (stats.hits, stats.misses, stats.total, stats.failed) == (11, 6, 6, 1)
    assert stats.hit_rate == pytest.approx(11 / 17)
    assert stats.error_rate == pytest.approx(1 / 6)
    assert stats.bytes_out == stats.bytes_in > 10
    latency = stats.latency
    assert latency.window == 6
    assert timedelta(0) < latency.p50 <= latency.p95 <= latency.p99 <= latency.max
    assert latency.mean <= latency.max
    store.reset_stats()
    assert (store.stats().total, store.stats().hit_rate, store.stats().error_rate) == (0, 0, 0)


def test_health_and_memory(store):
    store.batch_put({f"k{n}": "x" * 100 for n in range(300)})
    health = store.health()
    assert health.healthy
    again = store.health_check()
    assert (again.healthy, again.role, again.version) == (True, health.role, health.version)
    assert (health.role, health.replicas, health.replication_lag) == ("master", 0, None)
    usage = store.memory_usage(samples=50)
    assert usage.keys == 300
    assert 0 < usage.sampled <= 300
    assert 300 * 100 < usage.namespace_bytes < 300 * 400
    assert store.server_info().role == "master"


@pytest.mark.parametrize("fails", [False, True])
def test_a_transaction_takes_nothing_after_its_end(store, fails):
    with suppress(ZeroDivisionError), store.transaction() as tx:
        tx.put("k", 1)
        if fails:
            raise ZeroDivisionError
    for late in (
        lambda: tx.put("k", 2),
        lambda: tx.delete("k"),
        lambda: tx.get("k"),
        lambda: tx.contains("k"),
    ):
        with pytest.raises(ArgumentError, match=r"'k'.* in a transaction that has ended; begin"):
            late()
    assert store.get("k") == (None if fails else 1)
