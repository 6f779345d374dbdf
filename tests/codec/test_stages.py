"""All stages together: exact, bound to their place, and deaf to anything that was altered."""

from __future__ import annotations

import itertools
import os
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import (
    OVERHEAD,
    close_envelope,
    deadline_of,
    open_envelope,
)
from bytewax_redis_state.errors import DecodeError

PLACE = {"namespace": "bytewax", "flow_id": "orders", "step": "sum"}
ENCRYPTED = {"encryption_keys": {"e1": b"e" * 32}, "encrypt_with": "e1"}
SIGNED = {"signing_keys": {"s1": b"s" * 32}, "sign_with": "s1"}
COMBINATIONS = [
    {"compression": compression, "compress_above": above} | encrypted | signed
    for compression, above, encrypted, signed in itertools.product(
        [None, "zlib", "zstd"], [0, 1024], [{}, ENCRYPTED], [{}, SIGNED]
    )
]
CODECS = [Codec(**combination).bind(**PLACE) for combination in COMBINATIONS]
FULL = {"compression": "zstd", "compress_above": 0} | ENCRYPTED | SIGNED
EVERYTHING = Codec(**FULL).bind(**PLACE)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=5)
        | st.integers(1, 200).flatmap(lambda n: st.just([n] * n))
    ),
    max_leaves=15,
)


@given(st.sampled_from(CODECS), TEXTS | st.binary(), VALUES)
def test_a_value_comes_back_through_every_set_of_stages(codec, key, value):
    data = codec.encode(key, value)
    back = codec.decode(key, data)
    assert repr(back) == repr(value)
    if isinstance(key, str):
        assert repr(dict(codec.decode_all({key: data}))) == repr({key: value})
        many = codec.encode_all([(key, value)])
        assert len(many[key]) == len(data)
        assert repr(dict(codec.decode_all(many))) == repr({key: value})


@given(st.sampled_from(CODECS), st.sampled_from(CODECS), VALUES)
def test_resealing_keeps_the_value(source, target, value):
    data = source.reseal("k", source.encode("k", value), target)
    assert repr(target.decode("k", data)) == repr(value)


DEADLINES = st.none() | st.integers(0, 2**48 - 1)


@given(st.sampled_from(CODECS), TEXTS, VALUES, DEADLINES, DEADLINES)
def test_a_deadline_comes_with_the_value_and_can_be_another_one(codec, key, value, first, second):
    data = codec.encode(key, value, first)
    again = codec.reseal_until(key, data, second)
    for found, deadline in ((data, first), (again, second)):
        assert deadline_of(found) == open_envelope(key, found).deadline == deadline
        assert repr(codec.decode(key, found)) == repr(value)
        assert repr(dict(codec.decode_all({key: found}))) == repr({key: value})


@pytest.mark.parametrize("value", [5, (5,), {"a": {5}}, {...}])
def test_resealed_with_a_deadline_is_as_encoded_with_it(value):
    plain = Codec().bind(**PLACE)
    for first, second in ((None, 7), (7, 8), (7, None)):
        data = plain.encode("k", value, first)
        assert plain.reseal_until("k", data, second) == plain.encode("k", value, second)


@pytest.mark.parametrize("length", range(12))
def test_a_value_that_ends_inside_its_deadline_is_refused(length):
    data = Codec().bind(**PLACE).encode("k", 5, deadline=7)[:length]
    cut = close_envelope("k", data[:2] + data[OVERHEAD:]) if length > OVERHEAD else data
    for codec in (EVERYTHING, Codec().bind(**PLACE)):
        with pytest.raises(DecodeError, match="'k'"):
            codec.decode("k", cut)
        with pytest.raises(DecodeError, match="'k'"):
            codec.reseal_until("k", cut, None)
        with pytest.raises(DecodeError, match="'k'"):
            list(codec.decode_all({"k": cut}))


@given(st.sampled_from(COMBINATIONS), st.sampled_from(COMBINATIONS), VALUES)
def test_what_a_codec_does_not_insist_on_it_may_lack_and_no_more(writer, reader, value):
    """A reader takes what has all stages it insists on, and none that it has no key for."""
    data = Codec(**writer).bind(**PLACE).encode("k", value)
    fits = all((name in writer) == (name in reader) for name in ("encrypt_with", "sign_with"))
    decode = Codec(**reader).bind(**PLACE).decode
    if fits:
        assert repr(decode("k", data)) == repr(value)
    else:
        with pytest.raises(DecodeError, match="step 'sum', key 'k'"):
            decode("k", data)


WHOLE = EVERYTHING.encode("user42", "text " * 50)


def test_the_whole_form_has_every_stage():
    envelope = open_envelope("user42", WHOLE)
    assert envelope.compressed
    assert (envelope.key_id, envelope.signer) == (b"e1", b"s1")
    assert EVERYTHING.decode("user42", WHOLE) == "text " * 50


def test_bytes_are_fixed_but_for_the_nonce(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(size)))
    golden = (
        "b190537f7e99026531027331000102030405060708090a0b72f949ce30bf8cac2f3324"
        "fe37c5fbada6ee66d8ed058512ff6dc77387cb7f81168fd28ca4a9318ab7cccb4cd0d16e6a06"
    )
    codec = Codec(**ENCRYPTED, **SIGNED).bind(**PLACE)
    assert codec.encode("user42", 5).hex() == golden
    assert codec.decode("user42", bytes.fromhex(golden)) == 5


@pytest.mark.parametrize("position", range(len(WHOLE)))
def test_a_flip_of_any_bit_is_refused(position):
    for bit in range(8):
        flipped = bytearray(WHOLE)
        flipped[position] ^= 1 << bit
        with pytest.raises(DecodeError, match="'user42'"):
            EVERYTHING.decode("user42", bytes(flipped))
        if position < 2 or position >= OVERHEAD:
            mended = close_envelope("user42", bytes(flipped[:2] + flipped[OVERHEAD:]))
            with pytest.raises(DecodeError, match="'user42'"):
                EVERYTHING.decode("user42", mended)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_every_truncation_is_refused(length):
    with pytest.raises(DecodeError, match="'user42'"):
        EVERYTHING.decode("user42", WHOLE[:length])
    if length >= OVERHEAD:
        mended = close_envelope("user42", WHOLE[:2] + WHOLE[OVERHEAD:length])
        with pytest.raises(DecodeError, match="'user42'"):
            EVERYTHING.decode("user42", mended)


NAMES = st.text("abc:", max_size=3)
SPOTS = st.tuples(NAMES, NAMES, NAMES, NAMES)


@given(st.sampled_from([ENCRYPTED, SIGNED, FULL]), SPOTS, SPOTS)
def test_a_value_can_not_be_moved(protection, here, there):
    data, moved = (_bound(protection, spot) for spot in (here, there))
    stolen = data.encode(here[3], 5)
    planted = close_envelope(there[3], stolen[:2] + stolen[OVERHEAD:])
    if here == there:
        assert moved.decode(there[3], planted) == 5
    else:
        with pytest.raises(DecodeError):
            moved.decode(there[3], planted)


def _bound(protection, spot):
    return Codec(**protection).bind(namespace=spot[0], flow_id=spot[1], step=spot[2])


# --- bytes that nobody made

SAFE = Codec(allow_pickle=False, inflate_limit=1024 * 1024).bind(**PLACE)


@settings(max_examples=500)
@given(st.integers(0, 255), st.binary(max_size=300), st.booleans())
def test_random_bytes_are_a_decode_error_or_a_value(kind, body, mended):
    """Also with a right check sum, where they reach whatever reads them."""
    data = bytes([0xB1, kind]) + body
    if mended:
        data = close_envelope("k", data)
    for codec in (SAFE, *CODECS):
        if codec.codec.allow_pickle and kind & 0x0F == 2:
            continue  # a forged pickle may do anything, as the settings say
        try:
            codec.decode("k", data)
        except DecodeError as error:
            assert "'k'" in str(error)  # noqa: PT017 - both ways out are right


@settings(max_examples=300)
@given(
    st.sampled_from([b"\1", b"\2"]), st.integers(0, 2**32 - 1), st.binary(max_size=60), st.data()
)
def test_random_compressed_payloads_take_neither_time_nor_memory(method, size, body, data):
    start = {b"\1": b"\x78\x01", b"\2": b"\x28\xb5\x2f\xfd"}[method]
    with_start = data.draw(st.booleans())
    payload = method + size.to_bytes(4, "big") + (start if with_start else b"") + body
    tracemalloc.start()
    began = time.process_time()
    try:
        SAFE.decode("k", close_envelope("k", b"\xb1\x40" + payload))
    except DecodeError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
    assert time.process_time() - began < 5
