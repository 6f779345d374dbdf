import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytewax_redis_state.codec.delta import (
    pack_delta,
    pack_full_delta,
    unpack_changes,
    unpack_full_delta,
)
from bytewax_redis_state.errors import DecodeError


@given(st.dictionaries(st.text(), st.none() | st.binary(), max_size=5))
def test_a_delta_comes_back_in_order_with_its_keys_as_bytes(changes):
    wanted = [(key.encode(), value) for key, value in changes.items()]
    assert list(unpack_changes(pack_delta(changes)).items()) == wanted


def test_delta_bytes_are_fixed():
    assert pack_delta({"a": b"\x01", "b": None}).hex() == "82a161c40101a162c0"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x82\xa1a", b"\x80\x80", b"\xa1\xff"])
def test_what_msgpack_refuses_is_refused(data):
    with pytest.raises(DecodeError, match=f"{len(data)} bytes"):
        unpack_changes(data)


@pytest.mark.parametrize("value", [5, [1, 2], {"a": 1}, {1: None}, {"a": None, b"\xff": b""}])
def test_a_delta_of_another_form_is_refused(value):
    with pytest.raises(DecodeError, match="a delta of"):
        unpack_changes(msgpack.packb(value))


def test_a_character_cut_in_two_is_no_pair_of_keys():
    cut = dict.fromkeys(("é".encode()[:1], "é".encode()[1:]), b"")
    with pytest.raises(DecodeError, match="no text"):
        unpack_changes(msgpack.packb(cut))


@given(st.dictionaries(st.text(), st.none() | st.binary(), min_size=1, max_size=5))
def test_every_prefix_of_a_delta_is_refused(changes):
    delta = pack_delta(changes)
    for end in range(len(delta)):
        with pytest.raises(DecodeError, match=f"a delta of {end} bytes"):
            unpack_changes(delta[:end])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_delta_or_refused(data):
    """No crash, and no allocation bomb: a header that announces gigabytes is refused by msgpack."""
    try:
        changes = unpack_changes(data)
    except DecodeError:
        return
    assert all(key.decode() is not None for key in changes)
    assert all(value is None or type(value) is bytes for value in changes.values())


@pytest.mark.parametrize("head", [b"\xdf\xff\xff\xff\xff", b"\x81\xa1a\xc6\xff\xff\xff\xff"])
def test_a_header_that_announces_gigabytes_is_refused_at_once(head):
    with pytest.raises(DecodeError):
        unpack_changes(head + b"x" * 100)


@given(st.integers(1, 2**40), st.binary(), st.booleans())
def test_a_full_delta_comes_back_and_its_prefixes_do_not(request_number, delta, awaited):
    full = pack_full_delta(request_number, delta, awaited=awaited)
    assert unpack_full_delta(full) == (request_number, awaited, delta)
    for end in range(1, len(full)):
        with pytest.raises(DecodeError, match="a full delta of"):
            unpack_full_delta(full[:end])


def test_a_delta_is_no_full_delta():
    assert unpack_full_delta(pack_delta({str(n): None for n in range(70_000)})) is None
    assert unpack_full_delta(pack_delta({})) is None
    assert unpack_full_delta(b"") is None
