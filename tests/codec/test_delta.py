import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytewax_redis_state.codec.delta import pack_delta, pack_piece, unpack_delta, unpack_piece
from bytewax_redis_state.errors import DecodeError

STATES = st.dictionaries(st.text(), st.binary(), max_size=5)


@given(st.dictionaries(st.text(), st.none() | st.binary(), max_size=5))
def test_delta_comes_back_in_order(changes):
    assert list(unpack_delta(pack_delta(changes)).items()) == list(changes.items())


@given(st.integers(0, 4095), STATES, st.booleans())
def test_piece_comes_back(shard, states, more):
    assert unpack_piece(pack_piece(shard, states, more=more)) == (shard, more, states)


def test_delta_bytes_are_fixed():
    assert pack_delta({"a": b"\x01", "b": None}).hex() == "82a161c40101a162c0"


def test_piece_bytes_are_fixed():
    assert pack_piece(7, {"a": b"\x01"}, more=False).hex() == "9307c281a161c40101"


@pytest.mark.parametrize("unpack", [unpack_delta, unpack_piece])
@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x82\xa1a", b"\x80\x80", b"\xa1\xff"])
def test_what_msgpack_refuses_is_refused(unpack, data):
    with pytest.raises(DecodeError, match=f"{len(data)} bytes"):
        unpack(data)


@pytest.mark.parametrize("value", [5, [1, 2], {"a": 1}])
def test_piece_of_another_form_is_refused(value):
    with pytest.raises(DecodeError):
        unpack_piece(msgpack.packb(value))
