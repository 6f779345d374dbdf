"""Checkpoints as users take them: between kinds of backend, namespaces, codecs, and by asyncio."""

from __future__ import annotations

import asyncio
import io
from datetime import timedelta

import pytest

from bytewax_redis_state import MemoryStateBackend, RedisConfig, RedisStateBackend
from bytewax_redis_state.backend import StateBackend
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.errors import (
    CheckpointDamagedError,
    ConfigError,
    DecodeError,
    NamespaceNotEmptyError,
    RestoreUnfinishedError,
)

ITEMS = {"one": 1, "text": "x", b"\xff": (1, [2.5, None]), "{tag}:a": {"b": {3}}, "big": "y" * 5000}
SECRET = Codec(encryption_keys={"a": b"k" * 32}, encrypt_with="a")
SIGNED = Codec(signing_keys={"s": b"s" * 32}, sign_with="s")
KINDS = ("redis", "memory")


@pytest.fixture
def make(redis_url):
    """Make a backend of a kind: ``make("redis", "prefix:", codec)``."""
    made = []

    def make(kind: str, prefix: str = "state:", codec: Codec | None = Codec()) -> StateBackend:  # noqa: B008
        config = RedisConfig(url=redis_url, key_prefix=prefix, pool_min=1)
        backend = (RedisStateBackend if kind == "redis" else MemoryStateBackend)(config, codec)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close()


def fill(backend) -> None:
    backend.batch_put(ITEMS)
    backend.put("ends", "soon", ttl=timedelta(minutes=1))
    backend.increment("visits", 7)


def check(backend) -> None:
    assert backend.batch_get(ITEMS) == ITEMS
    assert backend.increment("visits") == 8
    assert timedelta(seconds=50) < backend.ttl("ends") <= timedelta(minutes=1)
    assert backend.ttl("one") is None
    assert set(backend.list_keys()) == {*ITEMS, "ends", "visits"}


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("out_of", KINDS)
def test_a_file_of_one_kind_is_read_by_the_other(make, out_of, into, tmp_path):
    source, target = make(out_of, "a:"), make(into, "b:")
    fill(source)
    info = source.checkpoint(tmp_path / "f")
    assert target.verify(tmp_path / "f") == info
    assert (info.counts.records, info.counts.expiring) == (len(ITEMS) + 2, 1)
    assert target.restore(tmp_path / "f").keys == len(ITEMS) + 2
    check(target)
    check(source)


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("out_of", KINDS)
def test_a_backend_is_copied_into_another_namespace(make, out_of, into):
    source, target = make(out_of, "a:"), make(into, "b:")
    fill(source)
    assert source.checkpoint(target).counts.records == len(ITEMS) + 2
    check(target)
    with pytest.raises(NamespaceNotEmptyError):
        target.restore(source)
    assert target.restore(source, merge=True).replaced == len(ITEMS) + 2
    target.put("more", 1)
    source.checkpoint(target, replace=True)
    assert not target.contains("more")


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_restore_is_told(make, kind):
    backend, file = make(kind), io.BytesIO()
    backend.batch_put({str(i): i for i in range(2500)})
    backend.checkpoint(file)
    backend.clear()

    def stop(done, total):
        raise KeyboardInterrupt

    file.seek(0)
    with pytest.raises(KeyboardInterrupt):
        backend.restore(file, progress=stop)
    assert not backend.unfinished_restore().running
    file.seek(0)
    with pytest.raises(RestoreUnfinishedError):
        backend.restore(file)
    assert set(backend.list_keys()) < {str(i) for i in range(2500)}, "the marker is no key"
    file.seek(0)
    backend.restore(file, replace=True)
    assert (backend.count(), backend.unfinished_restore()) == (2500, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_changes_nothing(make, kind):
    backend, file = make(kind), io.BytesIO()
    fill(backend)
    backend.checkpoint(file)
    data = bytearray(file.getvalue())
    data[len(data) // 2] ^= 4
    with pytest.raises(CheckpointDamagedError):
        backend.restore(io.BytesIO(bytes(data)), replace=True)
    check(backend)


@pytest.mark.parametrize("codec", [SECRET, SIGNED], ids=["encrypted", "signed"])
def test_protected_values_are_encoded_anew_for_another_prefix(make, codec, tmp_path):
    source, target = make("redis", "a:", codec), make("redis", "b:", codec)
    source.batch_put(ITEMS)
    source.checkpoint(tmp_path / "f")
    target.restore(tmp_path / "f")
    assert target.batch_get(ITEMS) == ITEMS
    source.checkpoint(target, replace=True)
    assert target.batch_get(ITEMS) == ITEMS


@pytest.mark.parametrize("codec", [SECRET, SIGNED], ids=["encrypted", "signed"])
def test_protected_values_come_back_as_they_were_under_their_own_prefix(make, codec, client):
    source, file = make("redis", "a:", codec), io.BytesIO()
    source.batch_put(ITEMS)
    before = {key: client.get(key) for key in client.scan_iter("a:*")}
    source.checkpoint(file)
    file.seek(0)
    source.restore(file, replace=True)
    assert {key: client.get(key) for key in client.scan_iter("a:*")} == before


def test_encrypted_values_without_their_key_are_refused_before_anything_is_written(make, tmp_path):
    source, target = make("redis", "a:", SECRET), make("redis", "b:")
    source.batch_put(ITEMS)
    source.checkpoint(tmp_path / "f")
    target.put("mine", 1)
    with pytest.raises(DecodeError):
        target.restore(tmp_path / "f", replace=True)
    assert (list(target.list_keys()), target.unfinished_restore()) == (["mine"], None)


def test_a_copy_changes_the_codec(make):
    """How encryption is brought in for all that is there."""
    both = Codec(encryption_keys={"b": b"n" * 32, "a": b"k" * 32}, encrypt_with="b")
    source, target = make("redis", "a:", SECRET), make("redis", "b:", both)
    source.batch_put(ITEMS)
    source.checkpoint(target)
    only_new = make("redis", "b:", Codec(encryption_keys={"b": b"n" * 32}, encrypt_with="b"))
    assert only_new.batch_get(ITEMS) == ITEMS


def test_raw_bytes_are_carried_as_they_are(make, tmp_path):
    source, target = make("redis", "a:", None), make("memory", "b:", None)
    looks_protected = b"\xb1\xf0" + bytes(40)
    source.put("k", looks_protected)
    source.checkpoint(tmp_path / "f")
    target.restore(tmp_path / "f")
    assert target.get("k") == looks_protected


def test_replace_or_merge_into_a_file_are_refused(make, tmp_path):
    for option in ({"replace": True}, {"merge": True}):
        with pytest.raises(ConfigError, match="goes to a file"):
            make("memory").checkpoint(tmp_path / "f", **option)


def test_coroutines_have_the_same(make, tmp_path):
    backend = make("redis")
    fill(backend)

    async def work():
        info = await backend.aio.checkpoint(tmp_path / "f")
        assert await backend.aio.verify(tmp_path / "f") == info
        assert await backend.aio.unfinished_restore() is None
        done = await backend.aio.restore(tmp_path / "f", replace=True)
        await backend.aio.close()
        return done.info == info

    assert asyncio.run(work())
    check(backend)


def test_writers_may_go_on_meanwhile(make):
    backend, file = make("redis"), io.BytesIO()
    backend.batch_put({f"stays:{i}": i for i in range(5000)})

    def write(done, total):
        backend.put(f"new:{done}", done)
        backend.put("stays:0", "changed")

    info = backend.checkpoint(file, progress=write)
    file.seek(0)
    backend.restore(file, replace=True)
    assert info.counts.records >= 5000
    assert sum(1 for _ in backend.list_keys("stays:")) == 5000
    assert backend.get("stays:1") == 1
