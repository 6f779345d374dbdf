"""The journal of one partition: what an append says, and reading page by page."""

from __future__ import annotations

import pytest
from redis.client import Pipeline

from bytewax_redis_state.codec.delta import pack_delta, unpack_changes
from bytewax_redis_state.errors import FencedError, StateLostError
from bytewax_redis_state.recovery.records import journal as module
from bytewax_redis_state.recovery.records.cells import Cell
from bytewax_redis_state.recovery.records.journal import Entry, JournalMovedError, Place
from bytewax_redis_state.recovery.records.token import Token

CELL = Cell("a:b", 3)


def entries(*places: tuple[int, int]) -> list[Entry]:
    return [Entry(epoch, row, CELL, pack_delta({f"k{row}": b"state"})) for epoch, row in places]


def test_entries_come_back_in_order(started):
    journal = started.journal()
    given = entries((1, 1), (1, 2), (2, 4))
    journal.append(0, 5, given, 3)
    assert list(journal.entries(1, 2)) == given
    assert list(journal.entries(2, 2)) == given[2:]
    assert list(journal.entries(3, 9)) == []


def test_pages_hide_nothing_and_repeat_nothing(started, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 4)
    journal = started.journal()
    given = entries(*((1 + n // 5, n + 1) for n in range(20)))
    journal.append(0, 20, given, 5)
    assert list(journal.entries(1, 4)) == given
    assert list(journal.entries(2, 3)) == given[5:15]


def test_pages_of_large_entries_are_short(started, monkeypatch):
    """A replicator's memory must not hold hundreds of whole cells."""
    monkeypatch.setattr(module, "_PAGE_BYTES", 3000)
    monkeypatch.setattr(module, "_FIRST_PAGE", 2)
    journal, asked = started.journal(), []
    given = [Entry(1, n, CELL, pack_delta({"k": b"x" * 900})) for n in range(1, 12)]
    given += [Entry(2, n, CELL, pack_delta({"k": b"x" * 9000})) for n in range(12, 16)]
    journal.append(0, 16, given, 3)
    real = Pipeline.xrange

    def xrange(*args, **kwargs):
        asked.append(kwargs["count"])
        return real(*args, **kwargs)

    monkeypatch.setattr(Pipeline, "xrange", xrange)
    assert list(journal.entries(1, 2)) == given
    assert asked[:4] == [2, 3, 3, 3]
    assert asked[-2:] == [1, 1]


def test_a_repeated_append_says_where_to_go_on(started):
    """Rule 4: kill a replicator between Redis's write and its answer; it goes on from there."""
    journal = started.journal()
    journal.append(0, 2, entries((1, 1)), 2)
    with pytest.raises(JournalMovedError) as moved:
        journal.append(0, 2, entries((1, 1)), 2)
    assert moved.value.place.row == 2
    assert len(list(journal.entries(1, 9))) == 1


def large(row: int) -> Entry:
    changes = {f"k{n}": b"%d" % n * 100_000 for n in range(10, 25)}
    return Entry(1, row, CELL, pack_delta(changes))


def test_a_large_entry_goes_in_pieces_that_together_are_the_entry(started):
    journal, pieces = started.journal(), list(large(7).pieces())
    assert len(pieces) == 8
    assert max(len(piece.delta) for piece in pieces) < 600_000
    assert list(large(7).pieces()) == pieces
    assert list(entries((1, 1))[0].pieces()) == entries((1, 1))
    journal.append(0, 7, pieces, 2)
    assert list(journal.entries(1, 1)) == pieces
    changes = {}
    for piece in journal.entries(1, 1):
        changes |= piece.changes
    assert changes == unpack_changes(large(7).delta)


def test_a_row_whose_first_pieces_are_there_goes_on_after_them(started):
    """Rule 4: kill a replicator between two appends of one row; nothing is there twice."""
    journal, pieces = started.journal(), list(large(7).pieces())
    journal.append(0, Place(6, 3), pieces[:3], None)
    for before in (Place(0), Place(6), Place(6, 2), Place(6, 4), Place(7)):
        with pytest.raises(JournalMovedError) as moved:
            journal.append(before, 7, pieces, 2)
        assert moved.value.place == Place(6, 3)
    journal.append(Place(6, 3), Place(7), pieces[3:], 2)
    assert list(journal.entries(1, 1)) == pieces
    with pytest.raises(JournalMovedError) as moved:
        journal.append(Place(6, 3), Place(7), pieces[3:], 2)
    assert moved.value.place == Place(7)


def test_a_lost_tail_says_where_to_go_back_to(started):
    """Rule 4: backwards too, where Redis lost its last second."""
    journal = started.journal()
    journal.append(0, 2, entries((1, 1)), 2)
    started.client.hset(started.keys.progress(0, 1), "row", 0)
    with pytest.raises(JournalMovedError) as moved:
        journal.append(2, 3, entries((2, 3)), 3)
    assert moved.value.place.row == 0


def test_a_fenced_journal_takes_nothing_and_says_by_whom(started):
    journal = started.journal()
    found = journal.fence(Token(7))
    assert (found.epoch, found.trimmed, found.entries) == (1, 1, 0)
    assert found == journal.look()
    with pytest.raises(
        FencedError, match="generation 1 of the flow was taken over by generation 7"
    ):
        journal.append(0, 1, entries((1, 1)), 2)
    with pytest.raises(
        FencedError, match="generation 1 of the flow was taken over by generation 7"
    ):
        journal.trim(1)


@pytest.mark.parametrize("kind", ["journal", "progress"])
def test_a_journal_that_is_gone_is_lost_and_named(started, kind):
    started.client.delete(getattr(started.keys, kind)(0, 1))
    with pytest.raises(StateLostError, match=r"journal.* is missing in Redis"):
        started.journal().append(0, 1, entries((1, 1)), 2)
    for look in (started.journal().look, lambda: started.journal().fence(Token(7))):
        with pytest.raises(StateLostError, match=rf"{kind} '.*' is missing"):
            look()


def test_a_journal_of_another_life_is_lost(started):
    """Rule 10: a replicator that meets another incarnation stops."""
    started.client.hset(started.keys.progress(0, 1), "incarnation", "another")
    with pytest.raises(StateLostError, match="is of another life"):
        started.journal().append(0, 1, entries((1, 1)), 2)
    with pytest.raises(StateLostError, match="is of another life"):
        started.journal().trim(2)


def test_a_trim_leaves_what_is_not_applied(started):
    journal = started.journal()
    journal.append(0, 3, entries((1, 1), (2, 2), (3, 3)), 4)
    journal.trim(3)
    assert [e.epoch for e in journal.entries(0, 9)] == [3]
    assert journal.fence(Token(2)).trimmed == 3


def test_a_cell_comes_back_from_its_bytes():
    for cell in (CELL, Cell("", 0), Cell("é:{}", 4095)):
        assert Cell.from_bytes(cell.to_bytes()) == cell


def test_a_deleted_journal_leaves_nothing(started):
    started.journal().delete()
    assert list(started.client.scan_iter(started.keys.partition_pattern)) == []


def test_every_prefix_of_an_entry_is_refused_and_named(started, client):
    delta = pack_delta({"a key": b"its state", "another": None})
    for end in range(len(delta)):
        journal = started.keys.journal(0, 1)
        client.delete(journal)
        client.xadd(journal, {b"c": CELL.to_bytes(), b"d": delta[:end]}, id="1-7")
        with pytest.raises(
            StateLostError, match=r"entry 1-7 of the journal .* is damaged"
        ) as caught:
            list(started.journal().entries(1, 9))
        assert f"a delta of {end} bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({b"d": b"\x80"}, "field b'c'"),
        ({b"c": CELL.to_bytes()}, "field b'd'"),
        ({b"c": b"no number", b"d": b"\x80"}, "no number"),
        ({b"c": b"3:\xff", b"d": b"\x80"}, "utf-8"),
    ],
)
def test_a_foreign_entry_is_refused_and_named(started, client, fields, named):
    client.xadd(started.keys.journal(0, 1), fields, id="1-7")
    with pytest.raises(StateLostError, match="entry 1-7 of the journal") as caught:
        list(started.journal().entries(1, 9))
    assert named in str(caught.value)


def test_a_trim_tells_a_fence_from_an_emptied_redis(started, client):
    """A checkpoint may be the first to notice that Redis was emptied: nobody took the flow over."""
    journal = started.journal()
    journal.append(0, 2, entries((1, 1)), 2)
    client.delete(started.keys.progress(0, 1))
    with pytest.raises(StateLostError, match=r"the progress .* is missing"):
        journal.trim(2)
