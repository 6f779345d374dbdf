"""A queue that was packed before comes out as one that was not, and is read as what it was."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytewax_redis_state.codec.brief import EPOCH, microseconds
from bytewax_redis_state.codec.classes import Classes
from bytewax_redis_state.codec.packing import Packing
from bytewax_redis_state.codec.queue import PackedQueue

UTC = timezone.utc
PACKING = Packing(Classes(import_any=False, allow_imports=frozenset()))
SCALARS = st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(fold=0))
VALUES = SCALARS | TIMES | st.tuples(SCALARS, TIMES)
ENTRIES = st.lists(st.tuples(VALUES, TIMES), max_size=20)


def read(data: bytes) -> list[tuple[Any, datetime]]:
    fields = PACKING.unpack(data)
    return [
        (value, EPOCH + timedelta(microseconds=at))
        for value, at in zip(fields[::2], fields[1::2], strict=True)
    ]


@given(st.data())
def test_it_depends_on_the_queue_alone(data: Any) -> None:
    packed, queue = PackedQueue(), []
    for new in data.draw(st.lists(ENTRIES, max_size=5)):
        stay = data.draw(st.sets(st.integers(0, max(0, len(queue) - 1))))
        queue = [entry for at, entry in enumerate(queue) if at in stay]
        if data.draw(st.booleans()):
            queue = data.draw(st.permutations(queue))
        queue += new
        found = packed.pack(queue)
        assert found == PackedQueue().pack([*queue])
        assert found is not None
        assert read(found) == queue
        assert repr(read(found)) == repr(queue)  # the types, too


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 32_767, 32_768, 40_000])
def test_queues_of_all_lengths_are_read(count: int) -> None:
    queue = [(number, EPOCH + timedelta(seconds=number)) for number in range(count)]
    data = PackedQueue().pack(queue)
    assert data is not None
    assert read(data) == queue
    assert data == msgpack.packb([part for v, at in queue for part in (v, microseconds(at))])


@pytest.mark.parametrize("odd", [[1], {"n": 1}, {1}, ([1],), ((1, 2),), bytearray(b"x"), "\ud800"])
def test_what_may_change_or_can_not_be_packed_is_left_to_others(odd: Any) -> None:
    packed, good = PackedQueue(), (5, EPOCH)
    assert packed.pack([good, (odd, EPOCH), good]) is None
    assert packed.pack([good, good]) == PackedQueue().pack([good, good])


@pytest.mark.parametrize(
    "time",
    [
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(2024, 1, 1, tzinfo=UTC, fold=1),
        datetime(2024, 1, 1),
    ],
)
def test_other_times_are_left_to_others(time: datetime) -> None:
    assert PackedQueue().pack([(5, time)]) is None
