"""Values get smaller where that pays, come back exactly, and can't fill the memory."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import tracemalloc
import zlib

import pytest
import zstandard

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.compression import HEAD_BYTES, Compressor, Inflater
from bytewax_redis_state.codec.envelope import (
    MSGPACK,
    OVERHEAD,
    close_envelope,
    head_of,
    open_envelope,
)
from bytewax_redis_state.errors import ConfigError, DecodeError

PLACE = {"namespace": "bytewax", "flow_id": "orders", "step": "sum"}
METHODS = ["zlib", "zstd"]
LIMIT = 64 * 1024 * 1024
PLAIN = Codec().bind(**PLACE)
TEXT = "to be or not to be, " * 200


def bound(method, **settings):
    return Codec(compression=method, **settings).bind(**PLACE)


def is_compressed(data):
    return open_envelope("k", data).compressed


def sealed(payload):
    """An envelope around what claims to be a compressed payload."""
    return close_envelope("k", head_of(MSGPACK, compressed=True) + payload)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [TEXT, (TEXT, 1), {"a": [TEXT] * 3}, b"\0" * 5000, [0] * 10_000])
def test_a_large_value_gets_smaller_and_comes_back(method, value):
    codec = bound(method)
    data = codec.encode("k", value)
    assert is_compressed(data)
    assert len(data) < len(PLAIN.encode("k", value)) / 5
    assert codec.decode("k", data) == value
    assert dict(codec.decode_all({"k": data})) == {"k": value}


@pytest.mark.parametrize("method", METHODS)
def test_who_reads_need_not_know_the_method(method):
    data = bound(method).encode("k", TEXT)
    assert PLAIN.decode("k", data) == TEXT
    for other in METHODS:
        assert bound(other).decode("k", data) == TEXT


@pytest.mark.parametrize("method", METHODS)
def test_a_pickle_is_compressed_too(method):
    value = range(5), {f"\ud800{n}": "x" * 100 for n in range(100)}
    data = bound(method).encode("k", value)
    assert is_compressed(data)
    assert PLAIN.decode("k", data) == value
    with pytest.raises(DecodeError, match="pickle, and allow_pickle is False"):
        Codec(allow_pickle=False).bind(**PLACE).decode("k", data)


@pytest.mark.parametrize("method", METHODS)
def test_a_value_up_to_the_size_stays_as_it_is(method):
    codec = bound(method, compress_above=100)
    at, above = "x" * 98, "x" * 99  # two bytes before a string of this size
    assert codec.encode("k", at) == PLAIN.encode("k", at)
    assert is_compressed(codec.encode("k", above))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 5, 11, 12, 13, 100, 2000])
def test_what_would_not_get_smaller_stays_as_it_is(method, size):
    codec = bound(method, compress_above=0)
    value = random.Random(size).randbytes(size)
    assert codec.encode("k", value) == PLAIN.encode("k", value)
    assert codec.decode("k", codec.encode("k", value)) == value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", range(40))
def test_compression_never_adds_a_byte(method, size):
    codec = bound(method, compress_above=0)
    value = b"a" * size
    data = codec.encode("k", value)
    assert len(data) <= len(PLAIN.encode("k", value))
    assert PLAIN.decode("k", data) == value


@pytest.mark.parametrize(
    "golden",
    [
        "b1401368683d010000003e7801bb699398443e0400fc2017f0",
        "b140986d4d84020000003e28b52ffd203e55000020d93c61620100ef7444",
    ],
)
def test_bytes_of_each_method_are_read_for_ever(golden):
    """How they are written may differ between versions of the libraries."""
    assert PLAIN.decode("k", bytes.fromhex(golden)) == "ab" * 30


@pytest.mark.parametrize("method", METHODS)
def test_the_header_of_a_compressed_payload_is_fixed(method):
    data = bound(method).encode("k", TEXT)
    assert data[:2].hex() == "b140"
    payload = data[OVERHEAD:]
    number, unsqueeze = {"zlib": (1, zlib.decompress), "zstd": (2, zstandard.decompress)}[method]
    packed = PLAIN.encode("k", TEXT)[OVERHEAD:]
    assert payload[:HEAD_BYTES] == bytes([number]) + len(packed).to_bytes(4, "big")
    assert unsqueeze(payload[HEAD_BYTES:]) == packed


# --- what can't be right


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"compression": "lz4"}, "compression is 'lz4'"),
        ({"compression": "ZSTD"}, "compression is 'ZSTD'"),
        ({"compression": ""}, "compression is ''"),
        ({"compress_above": -1}, "compress_above is -1"),
        ({"compress_above": True}, "compress_above is True"),
        ({"inflate_limit": 0}, "inflate_limit is 0"),
        ({"inflate_limit": 2**32}, "inflate_limit is 4294967296"),
        ({"inflate_limit": 1e6}, "inflate_limit is 1000000.0"),
    ],
)
def test_a_setting_that_can_not_be_right_is_named(settings, what):
    with pytest.raises(ConfigError, match=what):
        Codec(**settings)


def without(package, code):
    hidden = f"import sys; sys.modules[{package!r}] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hidden + code], capture_output=True, text=True, check=False
    )


def test_zstd_without_its_package_says_how_to_get_it():
    code = "from bytewax_redis_state.codec import Codec; Codec(compression='zstd')"
    done = without("zstandard", code)
    assert "ConfigError" in done.stderr
    assert "pip install 'bytewax-redis-state[zstd]'" in done.stderr


def test_a_zstd_value_without_its_package_says_how_to_get_it():
    data = bound("zstd").encode("k", TEXT)
    code = (
        "from bytewax_redis_state.codec import Codec\n"
        f"Codec().bind(namespace='', flow_id='', step='').decode('k', {data!r})"
    )
    done = without("zstandard", code)
    assert "DecodeError: key 'k': is compressed by zstd" in done.stderr
    assert "pip install 'bytewax-redis-state[zstd]'" in done.stderr


# --- bytes that were not made by us


@pytest.mark.parametrize("method", METHODS)
def test_every_truncation_is_refused(method):
    payload = Compressor(method, 0, LIMIT).compress(b"abc" * 50)
    for length in range(len(payload)):
        with pytest.raises(DecodeError, match="can't be decompressed"):
            Inflater(LIMIT).inflate(payload[:length])
        with pytest.raises(DecodeError, match="step 'sum', key 'k': can't be decompressed"):
            PLAIN.decode("k", sealed(payload[:length]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("more", [b"\0", b"rest"])
def test_bytes_after_the_end_are_refused(method, more):
    payload = Compressor(method, 0, LIMIT).compress(b"abc" * 50)
    with pytest.raises(DecodeError, match="can't be decompressed"):
        Inflater(LIMIT).inflate(payload + more)
    with pytest.raises(DecodeError, match="can't be decompressed"):
        Inflater(LIMIT).inflate(payload + payload[HEAD_BYTES:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", [-100, -1, 1, 100, 10_000_000])
def test_another_size_than_the_header_says_is_refused(method, change):
    payload = Compressor(method, 0, LIMIT).compress(b"abc" * 50)
    forged = payload[:1] + (150 + change).to_bytes(4, "big") + payload[HEAD_BYTES:]
    with pytest.raises(DecodeError, match="its size is not what its header says"):
        Inflater(LIMIT).inflate(forged)


@pytest.mark.parametrize("method", [b"\0", b"\3", b"\xff"])
def test_an_unknown_method_is_a_newer_versions(method):
    with pytest.raises(DecodeError, match=f"method {method[0]}: written by a newer version"):
        Inflater(LIMIT).inflate(method + bytes(10))


def peak_of(call):
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError) as caught:
            call()
        return tracemalloc.get_traced_memory()[1], caught.value
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", METHODS)
def test_a_size_above_the_limit_is_refused_before_a_byte_is_made(method):
    bomb = bound(method, inflate_limit=2**32 - 1).encode("k", bytes(100_000_000))
    assert len(bomb) < 1_000_000
    peak, error = peak_of(lambda: PLAIN.decode("k", bomb))
    assert peak < 5 * len(bomb) + 100_000
    assert "is compressed from 100000005 bytes, and inflate_limit is 67108864" in str(error)


@pytest.mark.parametrize("method", METHODS)
def test_a_size_that_is_forged_makes_no_more_bytes_than_it_says(method):
    bomb = Compressor(method, 0, 2**32 - 1).compress(bytes(100_000_000))
    forged = bomb[:1] + (1000).to_bytes(4, "big") + bomb[HEAD_BYTES:]
    peak, _ = peak_of(lambda: Inflater(LIMIT).inflate(forged))
    assert peak < 3 * len(bomb) + 100_000


def test_a_frame_that_does_not_say_its_size_is_refused():
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(DecodeError, match="its size"):
        Inflater(LIMIT).inflate(b"\2" + (1000).to_bytes(4, "big") + frame)


@pytest.mark.parametrize("method", METHODS)
def test_what_no_reader_would_take_back_is_not_compressed(method):
    codec = bound(method, inflate_limit=5000)
    assert is_compressed(codec.encode("k", "x" * 4000))
    data = codec.encode("k", "x" * 6000)
    assert not is_compressed(data)
    assert codec.decode("k", data) == "x" * 6000


@pytest.mark.parametrize("method", METHODS)
def test_threads_share_a_codec(method):
    codec = bound(method, compress_above=0)
    values = [f"{n} " * 2000 for n in range(16)]
    failures = []

    def work(start):
        for turn in range(100):
            value = values[(start + turn) % len(values)]
            if codec.decode("k", codec.encode("k", value)) != value:
                failures.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
