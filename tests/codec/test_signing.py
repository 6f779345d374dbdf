"""Values are known to be by who holds a key; what is not is refused before it is read."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import (
    MSGPACK,
    OVERHEAD,
    PICKLE,
    SIGNATURE_BYTES,
    close_envelope,
    head_of,
    open_envelope,
)
from bytewax_redis_state.errors import ConfigError, DecodeError

PLACE = {"namespace": "bytewax", "flow_id": "orders", "step": "sum"}
OLD, NEW = b"o" * 32, b"n" * 16
PLAIN = Codec().bind(**PLACE)


def bound(keys, sign_with, place=PLACE, **settings):
    return Codec(signing_keys=keys, sign_with=sign_with, **settings).bind(**place)


SIGNED = bound({"old": OLD}, "old")


def resealed(state_key, data):
    """The same bytes with a right check sum: what a forger would write."""
    return close_envelope(state_key, data[:2] + data[OVERHEAD:])


@pytest.mark.parametrize("value", [None, 5, "text", ("text", {"a": [1]}), range(3)])
def test_a_value_comes_back(value):
    data = SIGNED.encode("user42", value)
    assert SIGNED.decode("user42", data) == value
    assert dict(SIGNED.decode_all({"user42": data})) == {"user42": value}
    assert open_envelope("user42", data).signer == b"old"


def test_bytes_are_fixed():
    golden = (
        "b18078d9bf76036f6c6405a7eeb59902a1cfa0ba15b7e49a408f7cc95b8a79c0d58577ec5d814e621320ed"
    )
    assert SIGNED.encode("user42", 5).hex() == golden
    assert SIGNED.decode("user42", bytes.fromhex(golden)) == 5


def test_the_form_is_what_the_table_says():
    """Taken apart by hand, so that another language could."""
    data = SIGNED.encode("user42", 5)
    content, signature = data[:2] + data[OVERHEAD:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    assert content == b"\xb1\x80\x03old\x05"
    place = b"".join(
        len(part).to_bytes(4, "big") + part for part in (b"bytewax", b"orders", b"sum", b"user42")
    )
    assert hmac.new(OLD, place + content, hashlib.sha256).digest() == signature


def test_every_bit_counts_also_with_a_right_check_sum():
    data = SIGNED.encode("user42", 5)
    for position in [0, 1, *range(OVERHEAD, len(data))]:
        for bit in range(8):
            forged = bytearray(data)
            forged[position] ^= 1 << bit
            with pytest.raises(DecodeError, match="'user42'"):
                SIGNED.decode("user42", resealed("user42", bytes(forged)))


def test_every_truncation_is_refused_also_with_a_right_check_sum():
    data = SIGNED.encode("user42", 5)
    for length in range(2, len(data)):
        with pytest.raises(DecodeError, match="'user42'"):
            SIGNED.decode("user42", resealed("user42", data[:length]))


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "bytewax2"},
        {"namespace": "bytewaxo", "flow_id": "rders"},
        {"flow_id": "order"},
        {"step": "sum2"},
        {"step": ""},
    ],
    ids=str,
)
def test_a_value_of_another_place_is_refused(change):
    other = bound({"old": OLD}, "old", PLACE | change)
    with pytest.raises(DecodeError, match="did not make for this state key"):
        other.decode("user42", SIGNED.encode("user42", 5))


def test_a_value_of_another_key_is_refused():
    data = SIGNED.encode("user42", 5)
    with pytest.raises(DecodeError, match="key 'user43': has a signature that its key 'old' did"):
        SIGNED.decode("user43", resealed("user43", data))


def test_nothing_is_read_before_the_signature_is_verified():
    """A forged pickle, compressed payload or cipher text never reaches what would read it."""
    for head in (
        head_of(PICKLE, signer=b"old"),
        head_of(MSGPACK, compressed=True, signer=b"old"),
        head_of(MSGPACK, key_id=b"nobody's", signer=b"old"),
    ):
        forged = close_envelope("k", head + b"\x80garbage" + bytes(SIGNATURE_BYTES))
        with pytest.raises(DecodeError, match="has a signature that its key 'old' did not make"):
            SIGNED.decode("k", forged)


def test_an_unsigned_value_is_refused_unless_it_is_accepted():
    data = PLAIN.encode("k", 5)
    for read in (SIGNED.decode, lambda key, data: list(SIGNED.decode_all({key: data}))):
        with pytest.raises(DecodeError, match="is not signed, and accept_unsigned is False"):
            read("k", data)
    coming = bound({"old": OLD}, "old", accept_unsigned=True)
    assert coming.decode("k", data) == 5
    assert open_envelope("k", coming.encode("k", 5)).signer == b"old"
    forged = resealed("k", SIGNED.encode("k", 5)[:-1] + b"\0")
    with pytest.raises(DecodeError, match="did not make"):
        coming.decode("k", forged)


def test_a_signature_can_not_be_taken_off():
    data = SIGNED.encode("k", 5)
    with pytest.raises(DecodeError, match="is not signed"):
        SIGNED.decode("k", close_envelope("k", head_of(MSGPACK) + data[OVERHEAD + 4 : -32]))


def test_keys_are_exchanged_without_a_gap():
    data = [SIGNED.encode("k", 1)]
    learning = bound({"old": OLD, "new": NEW}, "old")
    writing = bound({"old": OLD, "new": NEW}, "new")
    data += [learning.encode("k", 2), writing.encode("k", 3)]
    assert [learning.decode("k", d) for d in data] == [1, 2, 3]
    assert [writing.decode("k", d) for d in data] == [1, 2, 3]
    done = bound({"new": NEW}, "new")
    assert done.decode("k", data[2]) == 3
    with pytest.raises(DecodeError, match="needs the signing key 'old'") as caught:
        done.decode("k", data[0])
    assert "signing_keys" in caught.value.hint


def test_a_codec_without_keys_does_not_read_what_it_can_not_verify():
    with pytest.raises(DecodeError, match="needs the signing key 'old'"):
        PLAIN.decode("k", SIGNED.encode("k", 5))


def test_signing_can_be_taken_out_again():
    going = bound({"old": OLD}, None, accept_unsigned=True)
    assert going.decode("k", SIGNED.encode("k", 5)) == 5
    assert going.encode("k", 5) == PLAIN.encode("k", 5)


def test_an_odd_key_id_in_redis_is_shown_in_one_line():
    forged = close_envelope("k", head_of(MSGPACK, signer=b"\xff\n") + bytes(40))
    with pytest.raises(DecodeError) as caught:
        SIGNED.decode("k", forged)
    assert "\n" not in str(caught.value)
    assert "\\xff" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"signing_keys": {"a": bytes(15)}, "sign_with": "a"}, r"signing_keys\['a'\] has 15 bytes"),
        ({"signing_keys": {"a": bytes(16)}, "sign_with": "b"}, "sign_with is 'b' and signing_keys"),
        ({"sign_with": "b"}, "sign_with is 'b' and signing_keys"),
        ({"signing_keys": {"a": bytes(16)}}, "signing_keys has keys and sign_with is None"),
        ({"accept_unsigned": True}, "accept_unsigned is True and signing_keys is empty"),
        ({"accept_unsigned": 1}, "accept_unsigned is 1"),
    ],
)
def test_settings_that_can_not_be_right_are_named(settings, what):
    with pytest.raises(ConfigError, match=what):
        Codec(**settings)


def test_errors_are_told_to_who_listens():
    told = []
    codec = bound({"old": OLD}, "old", on_error=told.append)
    with pytest.raises(DecodeError) as caught:
        codec.decode("k", PLAIN.encode("k", 5))
    assert told == [caught.value]


def test_outside_of_flows_errors_name_no_step():
    store = bound({"old": OLD}, "old", {"namespace": "state:", "flow_id": "", "step": ""})
    data = store.encode(b"\xff", 5)
    assert store.decode(b"\xff", data) == 5
    with pytest.raises(DecodeError, match=r"^key b'\\xfe': has a signature"):
        store.decode(b"\xfe", resealed(b"\xfe", data))
    with pytest.raises(DecodeError, match=r"^the value of key b'\\xfe' fails its check sum"):
        store.decode(b"\xfe", data)
