import random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytewax_redis_state.codec.envelope import (
    MSGPACK,
    MSGPACK_TUPLE,
    OVERHEAD,
    PICKLE,
    Envelope,
    are_sound,
    close_envelope,
    deadline_of,
    head_of,
    open_envelope,
    seal,
    seal_plain,
)
from bytewax_redis_state.errors import DecodeError

CODECS = st.sampled_from([MSGPACK, MSGPACK_TUPLE, PICKLE])
DEADLINES = st.none() | st.integers(0, 2**48 - 1)


def with_start(start, state_key, body=b"\x05"):
    """Make an envelope with any first two bytes and the right check sum."""
    check_sum = crc32(body, crc32(state_key.encode(), crc32(start)))
    return start + check_sum.to_bytes(4, "little") + body


@given(st.text(), CODECS, st.binary(), st.binary(max_size=255), DEADLINES)
def test_what_is_sealed_comes_back(state_key, codec, payload, key_id, deadline):
    data = seal(state_key, codec, payload, key_id=key_id, deadline=deadline)
    assert open_envelope(state_key, data) == Envelope(codec, payload, key_id, deadline)


@given(st.text() | st.binary(), CODECS, st.binary(), DEADLINES)
def test_the_fast_way_gives_the_same_bytes(state_key, codec, payload, deadline):
    data = seal(state_key, codec, payload, deadline=deadline)
    assert seal_plain(state_key, codec, payload, deadline) == data


@given(CODECS, st.binary(), st.binary(max_size=255), DEADLINES, st.booleans(), st.binary())
def test_the_deadline_is_read_beside_any_other_field(
    codec, payload, key_id, deadline, compressed, signer
):
    fields = {"key_id": key_id, "deadline": deadline, "signer": signer[:255]}
    content = head_of(codec, compressed=compressed, **fields) + payload
    assert deadline_of(close_envelope("k", content)) == deadline


@given(st.binary(max_size=40), st.booleans())
def test_a_deadline_is_read_from_any_bytes_without_an_error(data, start):
    found = deadline_of(b"\xb1" + data if start else data)
    assert found is None or 0 <= found < 2**48


@pytest.mark.parametrize("key_id", [b"", b"k1"])
def test_half_a_deadline_is_none(key_id):
    data = seal("k", MSGPACK, b"", key_id=key_id, deadline=7)
    for length in range(len(data)):
        assert deadline_of(data[:length]) is None
    assert deadline_of(b"\xb2" + data[1:]) is None


@pytest.mark.parametrize(
    ("fields", "golden"),
    [
        ({}, "b1000b3d6ca405"),
        ({"codec": MSGPACK_TUPLE}, "b101953dc66805"),
        ({"codec": PICKLE}, "b102763a49e605"),
        ({"key_id": b"k1"}, "b11014786c1c026b3105"),
        ({"deadline": 1_700_000_000_000}, "b120978823dc018bcfe5680005"),
        ({"key_id": b"k1", "deadline": 1}, "b1301c800191026b3100000000000105"),
    ],
)
def test_bytes_are_fixed(fields, golden):
    arguments = {"codec": MSGPACK, "payload": b"\x05"} | fields
    assert seal("user42", **arguments).hex() == golden
    assert open_envelope("user42", bytes.fromhex(golden)) == Envelope(**arguments)


def test_overhead_is_six_bytes():
    assert OVERHEAD == 6
    assert len(seal("user42", MSGPACK, b"\x05")) == OVERHEAD + 1


SEALED = seal("user42", MSGPACK, b"payload", key_id=b"k1", deadline=12345)


@pytest.mark.parametrize("position", range(len(SEALED)))
def test_a_flip_of_any_bit_is_refused(position):
    for bit in range(8):
        data = bytearray(SEALED)
        data[position] ^= 1 << bit
        with pytest.raises(DecodeError, match="'user42'"):
            open_envelope("user42", bytes(data))


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_every_truncation_is_refused(length):
    with pytest.raises(DecodeError, match="'user42'"):
        open_envelope("user42", SEALED[:length])


def test_another_keys_value_is_refused():
    with pytest.raises(DecodeError, match="key 'user43' fails its check sum"):
        open_envelope("user43", SEALED)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\xb2\x00", "format version 2"),
        (b"\xbf\x00", "format version 15"),
        (b"\xb1\x03", "codec 3"),
        (b"\xb1\x0f", "codec 15"),
        (b"\xb1\x43", "codec 3"),
        (b"\xb1\xf3", "codec 3"),
    ],
)
def test_a_newer_versions_value_is_refused_as_such(start, what):
    with pytest.raises(DecodeError, match=f"{what}: written by a newer version") as error:
        open_envelope("user42", with_start(start, "user42"))
    assert "upgrade" in error.value.hint


@pytest.mark.parametrize("data", [b"", b"\xb1", b"\x80\x05N.", b"hello world", b"\xb0\x00123456"])
def test_foreign_bytes_are_refused(data):
    with pytest.raises(DecodeError, match="key 'user42' is no state"):
        open_envelope("user42", data)


@pytest.mark.parametrize("kind", [0x10, 0x20, 0x30, 0x80, 0xF0])
@pytest.mark.parametrize("body", [b"", b"\x05", b"\x02ab\x00\x00"])
def test_a_header_that_ends_early_is_refused(kind, body):
    if kind == 0x10 and body.startswith(b"\x02"):
        return
    with pytest.raises(DecodeError, match=r"ends inside its (header|signature)"):
        open_envelope("user42", with_start(bytes([0xB1, kind]), "user42", body))


@pytest.mark.parametrize("kind", [0x10, 0x80])
def test_an_empty_key_id_is_refused(kind):
    """It would read as if the stage had been left out."""
    with pytest.raises(DecodeError, match="empty key ID"):
        open_envelope("user42", with_start(bytes([0xB1, kind]), "user42", bytes(60)))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("key_id", [b"", b"k1"])
@pytest.mark.parametrize("signer", [b"", b"s"])
@pytest.mark.parametrize("deadline", [None, 7])
def test_every_set_of_fields_comes_back(compressed, key_id, signer, deadline):
    fields = {"key_id": key_id, "deadline": deadline, "compressed": compressed, "signer": signer}
    signature = bytes(range(32)) if signer else b""
    content = head_of(PICKLE, **fields) + b"payload" + signature
    opened = open_envelope("user42", close_envelope("user42", content))
    assert opened == Envelope(PICKLE, b"payload", **fields, signature=signature)


def test_a_key_is_the_same_as_text_and_as_bytes():
    data = seal("ü", MSGPACK, b"\x05")
    assert seal("ü".encode(), MSGPACK, b"\x05") == data
    assert open_envelope("ü".encode(), data) == open_envelope("ü", data)
    assert open_envelope(b"\xff", seal(b"\xff", MSGPACK, b"\x05")).payload == b"\x05"


def test_random_bytes_never_escape_as_another_error():
    rng = random.Random(5)
    for _ in range(5000):
        data = bytes([0xB1]) + rng.randbytes(rng.randrange(20))
        with pytest.raises(DecodeError):
            open_envelope("user42", data)


@pytest.mark.parametrize("deadline", [-1, 2**48])
def test_a_deadline_out_of_range_is_refused(deadline):
    for make in (seal, seal_plain):
        with pytest.raises(OverflowError):
            make("user42", MSGPACK, b"", deadline=deadline)


def test_a_key_id_too_long_is_refused():
    with pytest.raises(ValueError):
        seal("user42", MSGPACK, b"", key_id=bytes(256))


@given(
    states=st.dictionaries(st.text(max_size=6), st.binary(max_size=9), min_size=1, max_size=6),
    deadline=st.none() | st.integers(0, 2**40),
    codec=st.sampled_from([MSGPACK, PICKLE]),
    damage=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(0, 7)),
)
def test_many_are_sound_if_each_of_them_is(states, deadline, codec, damage):
    keys = [key.encode() for key in states]
    values = [seal(key, codec, data, deadline=deadline) for key, data in states.items()]
    assert are_sound(keys, values)
    if damage is not None:
        which, at, bit = damage
        value = bytearray(values[which % len(values)])
        value[at % len(value)] ^= 1 << bit
        values[which % len(values)] = bytes(value)
        assert not are_sound(keys, values)
    assert not are_sound([b"x" + key for key in keys], values)
    assert not are_sound(keys, [value[:5] for value in values])
    assert are_sound([], [])
