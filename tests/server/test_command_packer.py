"""The packer sends what redis-py would send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import HiredisRespSerializer
from redis.exceptions import DataError

from bytewax_redis_state.server.client import Client
from bytewax_redis_state.server.command_packer import CommandPacker

arguments = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20),
    st.integers(),
    st.floats(allow_nan=False),
    st.binary(max_size=40).map(bytearray),
    st.binary(max_size=40).map(memoryview),
)


@given(
    name=st.sampled_from(["GET", "SCRIPT LOAD", b"CLIENT SETNAME", b"SET"]),
    rest=st.lists(arguments, max_size=6),
)
def test_the_bytes_are_those_of_redis_py(name, rest):
    assert CommandPacker().pack(name, *rest) == HiredisRespSerializer().pack(name, *rest)


@pytest.mark.parametrize("wrong", [None, {}, ["a"], object()])
def test_what_is_no_argument_is_refused_as_by_redis_py(wrong):
    for packer in (CommandPacker(), HiredisRespSerializer()):
        with pytest.raises(DataError):
            packer.pack("SET", b"a", wrong)


def test_a_client_packs_with_it(client: Client):
    connection = client.connection_pool.get_connection()
    assert type(connection._command_packer) is CommandPacker
    client.connection_pool.release(connection)
