"""Each script on each kind of server: what it does, and everything that it refuses."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bytewax_redis_state.codec.envelope import MSGPACK, seal
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.scripts import Scripts

KEYS = FlowKeys("t", "flow")
GENERATION, MANIFEST, LEASE = KEYS.generation, KEYS.manifest, KEYS.lease(0)
AT = (GENERATION, MANIFEST)
JOURNAL, PROGRESS = KEYS.journal(0, 3), KEYS.progress(0, 3)
APPLIED = KEYS.applied("sum", 5)


def state(name: str) -> bytes:
    return KEYS.state("sum", 5, name)


def dumped(db: redis.Redis) -> dict[bytes, bytes | None]:
    return {key: db.dump(key) for key in db.scan_iter(count=1000)}


# --- found_flow, write_manifest ------------------------------------------------------------------


def test_a_flow_is_founded_once(db, scripts):
    assert scripts.found_flow(GENERATION, MANIFEST, "one", 64, 1) == "one"
    before = dumped(db)
    assert scripts.found_flow(GENERATION, MANIFEST, "two", 32, 2) == "one"
    assert dumped(db) == before
    assert db.get(GENERATION) == b"0"
    assert db.hget(MANIFEST, "shards") == b"64"


def test_a_counter_without_manifest_is_lost_not_founded(db, scripts):
    """Rule 10: absence is an error."""
    db.set(GENERATION, "7")
    with pytest.raises(redis.ResponseError, match="LOST"):
        scripts.found_flow(GENERATION, MANIFEST, "one", 64, 1)
    assert db.keys() == [GENERATION]


def test_a_manifest_is_written_while_the_counter_stands(db, scripts):
    """Rule 5i: by compare-and-set on the counter."""
    scripts.found_flow(GENERATION, MANIFEST, "one", 64, 1)
    db.set(GENERATION, "3")
    assert piped(db, scripts.write_manifest, *AT, "one", 3, "", {"resume_epoch": "9"})
    assert db.hmget(MANIFEST, "generation", "resume_epoch", "shards") == [b"3", b"9", b"64"]


@pytest.mark.parametrize(("incarnation", "generation"), [("one", 2), ("one", 4), ("two", 3)])
def test_a_manifest_of_another_generation_or_life_is_refused(db, scripts, incarnation, generation):
    scripts.found_flow(GENERATION, MANIFEST, "one", 64, 1)
    db.set(GENERATION, "3")
    before = dumped(db)
    assert not piped(
        db,
        scripts.write_manifest,
        *AT,
        incarnation,
        generation,
        "",
        {"resume_epoch": "9"},
    )
    assert dumped(db) == before


def test_a_start_gets_the_next_number_and_leaves_its_id(db, scripts):
    scripts.found_flow(GENERATION, MANIFEST, "one", 64, 1)
    assert [scripts.bump_generation(GENERATION, start) for start in "aab"] == [1, 2, 3]
    assert db.get(GENERATION) == b"3-b"
    db.delete(GENERATION)
    assert scripts.bump_generation(GENERATION, "c") == 1
    for held in ("damaged", "", "-1", "1e3", "9" * 16, "1x", "x" * 100 + "\n"):
        db.set(GENERATION, held)
        with pytest.raises(redis.ResponseError, match="DAMAGED the field 'value' of"):
            scripts.bump_generation(GENERATION, "d")
        assert db.get(GENERATION) == held.encode()


def test_of_two_starts_with_one_number_the_counter_knows_the_last(db, scripts):
    """Redis has lost the first one's: it can't write a manifest any more."""
    scripts.found_flow(GENERATION, MANIFEST, "one", 64, 1)
    for start in ("first", "second"):
        db.set(GENERATION, "2-before")
        assert scripts.bump_generation(GENERATION, start) == 3
    before = dumped(db)
    for token, held in (("3-first", 0), ("3-second", 1)):
        assert piped(db, scripts.hold_generation, GENERATION, token) == held
    assert dumped(db) == before
    named = (*AT, "one")
    assert not piped(db, scripts.write_manifest, *named, "3-first", "", {"resume_epoch": "9"})
    assert dumped(db) == before
    assert piped(db, scripts.write_manifest, *named, "3-second", "", {"resume_epoch": "9"})
    assert db.hget(MANIFEST, "generation") == b"3-second"
    assert not scripts.end_renewal(MANIFEST, "one", "3-first", 9)


def test_a_manifest_is_of_the_servers_run_that_the_start_began_on(db, scripts):
    scripts.found_flow(GENERATION, MANIFEST, "one", 64, 1)
    before, run = dumped(db), str(db.info("server")["run_id"])
    for run_id, stood in (("0" * 40, -1), (run, 1)):
        assert dumped(db) == before
        fields = {"resume_epoch": "9"}
        assert piped(db, scripts.write_manifest, *AT, "one", 0, run_id, fields) == stood
    assert db.hget(MANIFEST, "resume_epoch") == b"9"


def test_the_counter_is_held_where_it_stands(db, scripts):
    db.set(GENERATION, "3")
    assert piped(db, scripts.hold_generation, GENERATION, 3) == 1
    assert piped(db, scripts.hold_generation, GENERATION, 2) == 0
    assert db.get(GENERATION) == b"3"
    db.delete(GENERATION)
    assert piped(db, scripts.hold_generation, GENERATION, 3) == 0
    assert db.keys() == []


# --- partitions ----------------------------------------------------------------------------------


@pytest.fixture
def partition(db, scripts):
    assert piped(db, scripts.create_partition, JOURNAL, PROGRESS, "one", 3, 8)


def entries(db: redis.Redis) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: list[tuple[bytes, dict[bytes, bytes]]] = db.xrange(JOURNAL)
    return found


@pytest.mark.usefixtures("partition")
def test_a_partition_is_made_once(db, scripts):
    made = db.hgetall(PROGRESS)
    assert made.pop(b"time").isdigit()
    assert made == {
        b"incarnation": b"one",
        b"generation": b"3",
        b"epoch": b"8",
        b"row": b"0",
        b"trimmed": b"8",
        b"entries": b"0",
        b"last": b"0-1",
    }
    assert (db.type(JOURNAL), entries(db)) == (b"stream", [])
    before = dumped(db)
    assert piped(db, scripts.create_partition, JOURNAL, PROGRESS, "one", 3, 8), "asked again"
    assert not piped(db, scripts.create_partition, JOURNAL, PROGRESS, "two", 3, 1)
    assert not piped(db, scripts.create_partition, JOURNAL, PROGRESS, "one", "3-other", 8)
    assert dumped(db) == before
    db.delete(PROGRESS)  # half of one is not made whole either
    assert not piped(db, scripts.create_partition, JOURNAL, PROGRESS, "two", 3, 1)
    assert dumped(db)[JOURNAL] == before[JOURNAL]


def append(scripts: Scripts, *, before=0, after=2, epoch=9, incarnation="one", generation=3):
    rows = (8, 1, b"5:sum", b"delta", 8, 2, b"6:sum", b"delta2")
    return scripts.append(JOURNAL, PROGRESS, incarnation, generation, before, after, epoch, rows)


@pytest.mark.usefixtures("partition")
def test_an_append_moves_rows_and_progress(db, scripts):
    assert append(scripts) == [b"ok"]
    assert entries(db) == [
        (b"8-1", {b"c": b"5:sum", b"d": b"delta"}),
        (b"8-2", {b"c": b"6:sum", b"d": b"delta2"}),
    ]
    assert db.hmget(PROGRESS, "row", "epoch", "entries", "last") == [b"2", b"9", b"2", b"8-2"]


@pytest.mark.usefixtures("partition")
def test_a_part_of_an_epoch_leaves_progress(db, scripts):
    """Rule 4: an epoch too large for one append moves progress with the last."""
    assert append(scripts, epoch=None) == [b"ok"]
    assert db.hmget(PROGRESS, "row", "epoch") == [b"2", b"8"]
    assert scripts.append(JOURNAL, PROGRESS, "one", 3, 2, 3, 9, ()) == [b"ok"]
    assert db.hmget(PROGRESS, "row", "epoch", "entries", "last") == [b"3", b"9", b"2", b"8-2"]


@pytest.mark.usefixtures("partition")
def test_a_repeated_append_is_told_where_redis_stands(db, scripts):
    """Rule 4: compare-and-set on the last row covers retries."""
    append(scripts)
    before = dumped(db)
    assert append(scripts) == [b"moved", b"2"]
    assert append(scripts, before=1) == [b"moved", b"2"]
    assert append(scripts, before=7) == [b"moved", b"2"]
    assert dumped(db) == before


@pytest.mark.usefixtures("partition")
@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"incarnation": "two"}, [b"foreign", b"one"]),
        ({"generation": 4}, [b"fenced", b"3"]),
        ({"generation": "3-other"}, [b"fenced", b"3"]),
    ],
)
def test_an_append_of_another_life_or_generation_is_refused(db, scripts, other, said):
    before = dumped(db)
    assert append(scripts, **other) == said
    assert dumped(db) == before


@pytest.mark.usefixtures("partition")
def test_a_fence_and_its_reading_shut_the_partition(db, scripts):
    """Rule 5d: fence and read are one step."""
    append(scripts)
    fence = piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "one", 3, 5)
    fields = dict(zip(fence[0][::2], fence[0][1::2], strict=True))
    assert (fields[b"epoch"], fields[b"trimmed"], fields[b"fenced"]) == (b"9", b"8", b"5")
    assert int(fields[b"time"]) > 1_600_000_000
    assert fence[1:] == [1, 2, b"8-2"]
    before = dumped(db)
    assert append(scripts, before=2, after=4) == [b"fenced", b"5"]
    assert dumped(db) == before
    # A later start reads the same again; an earlier one does not take the fence down.
    for by in (7, 6):
        assert piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "one", 3, by)[1:] == fence[1:]
    assert db.hget(PROGRESS, "fenced") == b"7"


def test_a_step_is_noted_in_the_manifest_of_the_writer_only(db, scripts):
    key = KEYS.manifest
    assert piped(db, scripts.note_pickled, key, "one", "3-mine", ["sum"]) == 0
    assert not db.exists(key)
    db.hset(key, mapping={"incarnation": "one", "generation": "3-mine"})
    assert piped(db, scripts.note_pickled, key, "two", "3-mine", ["sum"]) == 0
    assert piped(db, scripts.note_pickled, key, "one", "3-other", ["sum"]) == 0
    assert db.hlen(key) == 2
    for _ in range(2):
        assert piped(db, scripts.note_pickled, key, "one", "3-mine", ["sum", "in"]) == 1
    assert db.hmget(key, "pickled:sum", "pickled:in", "pickled:other") == [b"1", b"1", None]


def test_a_partition_is_its_starts_also_where_another_has_the_same_number(db, scripts):
    assert piped(db, scripts.create_partition, JOURNAL, PROGRESS, "one", "3-mine", 8)
    append(scripts, generation="3-mine")
    before, other = dumped(db), "3-other"
    assert append(scripts, before=2, after=4, generation=other) == [b"fenced", b"3-mine"]
    assert scripts.trim_journal(JOURNAL, PROGRESS, "one", other, 9) is None
    assert piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "one", other, "4-new")
    assert piped(db, scripts.note_confirming, PROGRESS, "one", other, 2) == 0
    assert not scripts.note_safe(PROGRESS, "one", other, 9)
    assert not scripts.post_answers(PROGRESS, "one", other, 1, 1, 1)
    assert dumped(db) == before
    # A fence of a two-digit number is above one of a single digit.
    for by, stands in (("9-a", b"9-a"), ("10-b", b"10-b"), ("10-c", b"10-b"), ("9-d", b"10-b")):
        assert piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "one", "3-mine", by)
        assert db.hget(PROGRESS, "fenced") == stands


@pytest.mark.usefixtures("partition")
def test_a_partition_is_deleted_by_who_fenced_it_on_the_same_run_of_the_server(db, scripts):
    run, other = str(db.info("server")["run_id"]), "0" * 40

    def delete(by: str, run_id: str) -> int:
        return piped(db, scripts.delete_partition, JOURNAL, PROGRESS, by, run_id)

    before = dumped(db)
    assert delete("4-a", run) == 0, "nobody has fenced it"
    assert dumped(db) == before
    piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "one", 3, "4-a")
    before = dumped(db)
    assert [delete("4-b", run), delete("5-c", ""), delete("4-a", other), delete("", other)] == [
        0
    ] * 4
    assert dumped(db) == before
    assert delete("4-a", run) == 2
    assert db.keys() == []
    assert delete("", "") == 0


def test_a_cell_is_deleted_by_who_fenced_it_on_the_same_run_of_the_server(db, scripts):
    run, other = str(db.info("server")["run_id"]), "0" * 40

    def delete(by: str, run_id: str) -> int:
        return piped(db, scripts.delete_cell, APPLIED, by, run_id)

    assert piped(db, scripts.create_cell, APPLIED, "one", "4-a", 0) == 0
    before = dumped(db)
    assert [delete("4-b", run), delete("5-c", ""), delete("4-a", other)] == [0] * 3
    assert dumped(db) == before
    assert delete("4-a", run) == 1
    assert db.keys() == []
    assert delete("4-a", "") == 0


@pytest.mark.usefixtures("partition")
@pytest.mark.parametrize("gone", [JOURNAL, PROGRESS])
def test_without_both_keys_there_is_neither_append_nor_progress(db, scripts, gone):
    """Rule 5: appends never create a key that a start should have made."""
    db.delete(gone)
    before = dumped(db)
    assert append(scripts) == [b"missing"]
    assert dumped(db) == before
    fields, exists, held, newest = piped(
        db, scripts.fence_partition, JOURNAL, PROGRESS, "one", 3, 5
    )
    assert (bool(fields), exists) == (gone == JOURNAL, int(gone == PROGRESS))
    assert (held, newest) == (0, b"")
    assert db.exists(gone) == 0


@pytest.mark.usefixtures("partition")
def test_a_fence_of_another_life_or_generation_shuts_nothing(db, scripts):
    before = dumped(db)
    assert piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "two", 3, 5)
    assert piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "one", 2, 5)
    assert dumped(db) == before


@pytest.mark.usefixtures("partition")
def test_a_trim_drops_below_and_never_goes_back(db, scripts):
    scripts.append(
        JOURNAL,
        PROGRESS,
        "one",
        3,
        0,
        3,
        11,
        (8, 1, b"c", b"d", 9, 2, b"c", b"d", 10, 3, b"c", b"d"),
    )
    assert scripts.trim_journal(JOURNAL, PROGRESS, "one", 3, 10) == 10
    assert [entry_id for entry_id, _ in entries(db)] == [b"10-3"]
    assert scripts.trim_journal(JOURNAL, PROGRESS, "one", 3, 9) == 10
    assert db.hmget(PROGRESS, "trimmed", "entries", "last") == [b"10", b"1", b"10-3"]


@pytest.mark.usefixtures("partition")
def test_a_trim_does_not_count_entries_that_were_deleted(db, scripts):
    """Rule 10: else nobody would notice that they were never folded."""
    append(scripts)
    db.xdel(JOURNAL, "8-1")
    assert scripts.trim_journal(JOURNAL, PROGRESS, "one", 3, 10) == 10
    assert db.hget(PROGRESS, "entries") == b"1"


@pytest.mark.parametrize("value", ["", "text", "1.5", "-1", "9" * 16])
@pytest.mark.usefixtures("partition")
def test_a_number_that_is_none_stops_a_script_and_is_named(db, scripts, value):
    append(scripts)
    for field, call in (
        ("entries", lambda: append(scripts, before=2, after=4)),
        ("entries", lambda: scripts.trim_journal(JOURNAL, PROGRESS, "one", 3, 9)),
        ("trimmed", lambda: scripts.trim_journal(JOURNAL, PROGRESS, "one", 3, 9)),
        ("epoch", lambda: piped(db, scripts.note_confirming, PROGRESS, "one", 3, 2)),
        ("safe", lambda: scripts.note_safe(PROGRESS, "one", 3, 9)),
    ):
        held = db.hget(PROGRESS, field)
        db.hset(PROGRESS, field, value)
        before = dumped(db)
        with pytest.raises(redis.ResponseError, match=f"DAMAGED the field '{field}' of 't:.flow/p"):
            call()
        assert dumped(db)[JOURNAL] == before[JOURNAL]
        db.hset(PROGRESS, field, held) if held else db.hdel(PROGRESS, field)


@pytest.mark.usefixtures("partition")
def test_what_is_safe_only_grows_and_is_the_writers_to_say(db, scripts):
    append(scripts)
    assert piped(db, scripts.note_confirming, PROGRESS, "one", 3, 2) == 9
    assert piped(db, scripts.note_confirming, PROGRESS, "one", 3, 99) == 0
    assert scripts.note_safe(PROGRESS, "one", 3, 9)
    assert scripts.note_safe(PROGRESS, "one", 3, 8)
    assert not scripts.note_safe(PROGRESS, "two", 3, 12)
    assert not scripts.note_safe(PROGRESS, "one", 4, 12)
    assert not scripts.note_safe(KEYS.progress(1, 3), "one", 3, 12)
    assert db.hget(PROGRESS, "safe") == b"9"
    assert not db.exists(KEYS.progress(1, 3))


@pytest.mark.usefixtures("partition")
def test_a_trim_is_for_the_writer_only(db, scripts):
    append(scripts)
    assert scripts.trim_journal(JOURNAL, PROGRESS, "two", 3, 9) is None
    assert scripts.trim_journal(JOURNAL, PROGRESS, "one", 4, 9) is None
    piped(db, scripts.fence_partition, JOURNAL, PROGRESS, "one", 3, 5)
    assert scripts.trim_journal(JOURNAL, PROGRESS, "one", 3, 9) is None
    assert len(entries(db)) == 2


# --- cells ---------------------------------------------------------------------------------------


def piped(db: redis.Redis, call, *args, **kwargs):
    with db.pipeline(transaction=False) as pipe:
        call(*args, **kwargs, on=pipe)
        return pipe.execute()[0]


def create(db, scripts, *, incarnation="one", generation=3, epoch=7):
    return piped(db, scripts.create_cell, APPLIED, incarnation, generation, epoch)


def fold(db, scripts, sets=(), deletes=(), *, at=(7, 9), partition=0, last=True, **who):
    keys = [state(name) for name, _ in sets] + [state(name) for name in deletes]
    return piped(
        db,
        scripts.fold,
        APPLIED,
        keys,
        who.get("incarnation", "one"),
        who.get("generation", 3),
        partition,
        *at,
        chunk=who.get("chunk", 1),
        last=last,
        offset=who.get("offset"),
        values=[value for _, value in sets],
    )


def count(db) -> int:
    return int(db.hget(APPLIED, "count"))


@pytest.fixture
def cell(db, scripts):
    assert create(db, scripts) == 0


@pytest.mark.usefixtures("cell")
def test_an_empty_cell_is_taken_over_and_one_with_keys_is_not(db, scripts):
    assert create(db, scripts, generation=4, epoch=8) == 0
    assert db.hmget(APPLIED, "generation", "epoch") == [b"4", b"8"]
    fold(db, scripts, [("a", b"1")], at=(8, 9), generation=4)
    before = dumped(db)
    assert create(db, scripts, generation=5) == 1
    assert dumped(db) == before


@pytest.mark.usefixtures("cell")
def test_an_overtaken_start_leaves_the_newer_ones_cell(db, scripts):
    create(db, scripts, generation=4)
    before = dumped(db)
    assert create(db, scripts, generation=3) == -1
    assert dumped(db) == before
    assert create(db, scripts, incarnation="two", generation=3) == 0


@pytest.mark.usefixtures("cell")
def test_a_fold_sets_deletes_and_counts(db, scripts):
    assert fold(db, scripts, [("a", b"1"), ("b", b"2")]) == [b"ok"]
    assert fold(db, scripts, [("a", b"3")], ["b", "never there"], at=(9, 10)) == [b"ok"]
    assert (db.get(state("a")), db.exists(state("b")), count(db)) == (b"3", 0, 1)
    assert db.hmget(APPLIED, "p0", "epoch", "mark0") == [b"10", b"7", None]


@pytest.mark.usefixtures("cell")
def test_a_fold_of_nothing_moves_the_cell(db, scripts):
    """Rule 8: every checkpoint moves all cells, also unchanged ones."""
    assert fold(db, scripts) == [b"ok"]
    assert db.hget(APPLIED, "p0") == b"9"


@pytest.mark.usefixtures("cell")
def test_what_is_applied_is_skipped_and_a_gap_refused(db, scripts):
    """Rule 8: skip if applied is at or beyond to, refuse if it is before from."""
    fold(db, scripts, [("a", b"1")])
    before = dumped(db)
    assert fold(db, scripts, [("a", b"2")]) == [b"skip", b"9"]
    assert fold(db, scripts, [("a", b"2")], at=(5, 8)) == [b"skip", b"9"]
    assert fold(db, scripts, [("a", b"2")], at=(10, 12)) == [b"gap", b"9"]
    assert dumped(db) == before
    assert fold(db, scripts, [("a", b"2")], at=(7, 10)) == [b"ok"]  # overlaps: all of it again


@pytest.mark.usefixtures("cell")
def test_partitions_of_one_cell_are_applied_apart(db, scripts):
    fold(db, scripts, [("a", b"1")], partition=0, at=(7, 9))
    assert fold(db, scripts, [("b", b"1")], partition=1, at=(7, 8)) == [b"ok"]
    assert db.hmget(APPLIED, "p0", "p1") == [b"9", b"8"]


@pytest.mark.usefixtures("cell")
def test_a_fold_that_may_not_write_writes_nothing(db, scripts):
    before = dumped(db)
    assert fold(db, scripts, [("a", b"1")], incarnation="two") == [b"foreign", b"one"]
    assert fold(db, scripts, [("a", b"1")], generation=2) == [b"fenced", b"3"]
    assert dumped(db) == before
    db.delete(APPLIED)
    assert fold(db, scripts, [("a", b"1")]) == [b"missing"]  # rule 5: never made here
    assert db.keys() == []


@pytest.mark.usefixtures("cell")
def test_chunks_are_marked_until_the_last(db, scripts):
    """Rule 8: between a begin and an end mark that readers heed."""
    assert fold(db, scripts, [("a", b"1")], last=False) == [b"ok"]
    assert db.hmget(APPLIED, "mark0", "p0") == [b"9", None]
    assert fold(db, scripts, [("b", b"1")], chunk=2, last=False) == [b"ok"]
    assert fold(db, scripts, [("c", b"1")], chunk=3) == [b"ok"]
    assert db.hmget(APPLIED, "mark0", "p0", "count") == [None, b"9", b"3"]


@pytest.mark.usefixtures("cell")
def test_a_late_chunk_of_an_older_fold_changes_nothing(db, scripts):
    """Rule 8: it comes from a dead connection's buffer when a newer fold has begun."""
    assert fold(db, scripts, [("a", b"10")], at=(7, 10), last=False) == [b"ok"]
    before = dumped(db)
    assert fold(db, scripts, [("a", b"9")], at=(7, 9), last=False) == [b"torn", b"10"]
    assert fold(db, scripts, [("b", b"9")], at=(7, 9), chunk=2) == [b"torn", b"10"]
    assert dumped(db) == before
    assert fold(db, scripts, [("b", b"10")], at=(7, 10), chunk=2) == [b"ok"]
    assert [db.get(state(name)) for name in "ab"] == [b"10", b"10"]


@pytest.mark.usefixtures("cell")
def test_chunks_of_one_fold_may_come_twice(db, scripts):
    """Rule 4: a fold that lost its connection is sent again, and the first one comes after all."""
    chunks = [[("a", b"1")], [("b", b"1")], [("c", b"1")]]
    for number in (1, 2, 1, 2, 1):
        assert fold(db, scripts, chunks[number - 1], chunk=number, last=False) == [b"ok"]
    assert fold(db, scripts, chunks[2], chunk=3) == [b"ok"]
    assert fold(db, scripts, chunks[1], chunk=2, last=False) == [b"skip", b"9"]
    assert db.hmget(APPLIED, "mark0", "chunk0", "p0", "count") == [None, None, b"9", b"3"]


@pytest.mark.usefixtures("cell")
@pytest.mark.parametrize("lost", [1, 2])
def test_a_chunk_that_follows_a_lost_one_is_refused(db, scripts, lost):
    """Rule 9: Redis goes back to before a chunk that it had acknowledged, in mid-fold."""
    for number in range(1, lost):
        fold(db, scripts, [(f"k{number}", b"1")], chunk=number, last=False)
    before = dumped(db)
    for number in range(lost + 1, 4):
        answer = fold(db, scripts, [(f"k{number}", b"1")], chunk=number, last=number == 3)
        assert answer[0] == b"torn"
    assert dumped(db) == before


@pytest.mark.usefixtures("cell")
def test_the_count_holds_however_often_chunks_are_applied(db, scripts):
    """Rule 10: live counts equal the keys, also after a fold that died between chunks."""
    dice = random.Random(0)
    for epoch in range(8, 40):
        names = dice.sample("abcdefghij", 6)
        chunks = [([(n, b"x") for n in names[:2]], names[2:3]), ([(names[3], b"y")], names[4:])]
        for _ in range(dice.randint(0, 2)):  # died after the first chunk, and began again
            fold(db, scripts, *chunks[0], at=(epoch - 1, epoch), last=False)
        fold(db, scripts, *chunks[0], at=(epoch - 1, epoch), last=False)
        fold(db, scripts, *chunks[1], at=(epoch - 1, epoch), chunk=2)
        assert count(db) == len(db.keys(KEYS.state_pattern))


@pytest.mark.usefixtures("cell")
def test_a_chunk_of_a_thousand_keys_fits_a_script(db, scripts):
    sets = [(f"k{i}", b"x" * 100) for i in range(1000)]
    assert fold(db, scripts, sets) == [b"ok"]
    assert fold(db, scripts, (), [name for name, _ in sets], at=(9, 10)) == [b"ok"]
    assert count(db) == 0


@pytest.mark.usefixtures("cell")
def test_a_fenced_cell_takes_no_older_fold(db, scripts):
    """Rule 5e: fence every cell."""
    flat = piped(db, scripts.fence_cell, APPLIED, "one", 5)
    assert dict(zip(flat[::2], flat[1::2], strict=True))[b"generation"] == b"5"
    assert fold(db, scripts, [("a", b"1")]) == [b"fenced", b"5"]
    piped(db, scripts.fence_cell, APPLIED, "one", 4)  # an older start comes late
    assert db.hget(APPLIED, "generation") == b"5"
    piped(db, scripts.fence_cell, APPLIED, "two", 9)  # another life has no say
    assert db.hget(APPLIED, "generation") == b"5"


def test_of_two_starts_with_one_number_one_has_the_cell(db, scripts):
    """Neither takes it from the other, whoever comes again; a newer one takes it from both."""
    create(db, scripts, generation="3-old")
    fold(db, scripts, [("a", b"1")], generation="3-old")
    for token, stands in (
        ("10-first", b"10-first"),
        ("10-second", b"10-first"),
        ("9-x", b"10-first"),
    ):
        piped(db, scripts.fence_cell, APPLIED, "one", token)
        assert db.hget(APPLIED, "generation") == stands
    before, other = dumped(db), "10-second"
    named = (APPLIED, [state("a")], "one", other)
    assert fold(db, scripts, [("a", b"2")], generation=other) == [b"fenced", b"10-first"]
    assert piped(db, scripts.settle_cell, APPLIED, "one", other, 9) is None
    assert piped(db, scripts.settle_deadlines, APPLIED, "one", other, 9, {5: 1}) is None
    assert piped(db, scripts.drop_keys, *named) is None
    assert piped(db, scripts.renew_keys, *named, [now_ms(db) + 9]) is None
    assert piped(db, scripts.reseal_keys, *named, [b"1", b"2"]) is None
    assert dumped(db) == before
    db.hset(APPLIED, "count", 0)
    assert create(db, scripts, generation=other) == -1
    assert create(db, scripts, generation="10-first") == 0
    assert create(db, scripts, generation="11-newer") == 0


def test_fencing_a_missing_cell_makes_none(db, scripts):
    assert piped(db, scripts.fence_cell, APPLIED, "one", 5) == []
    assert db.keys() == []


@pytest.mark.usefixtures("cell")
def test_a_settled_cell_forgets_partitions_and_never_goes_back(db, scripts):
    fold(db, scripts, [("a", b"1")], partition=0)
    fold(db, scripts, [("b", b"1")], partition=1, last=False)
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 9) == 2
    assert set(db.hkeys(APPLIED)) == {b"incarnation", b"generation", b"epoch", b"count"}
    before = dumped(db)
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 8) is None
    assert piped(db, scripts.settle_cell, APPLIED, "one", 2, 10) is None
    assert piped(db, scripts.settle_cell, APPLIED, "two", 3, 10) is None
    assert dumped(db) == before
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 9) == 2  # again: a start that died


@pytest.mark.usefixtures("cell")
def test_a_cell_that_lost_a_fold_is_not_settled_as_if_it_had_it(db, scripts):
    """As after a failover between the fold of a start and its settling."""
    fold(db, scripts, [("a", b"1")], partition=0)
    before = dumped(db)
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 9, folded=[0, 1]) == -1
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 10, folded=[0]) == -1
    assert dumped(db) == before
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 9, folded=[0]) == 1
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 9, folded=[0, 1]) == 1  # again


def test_a_missing_cell_is_not_settled(db, scripts):
    assert piped(db, scripts.settle_cell, APPLIED, "one", 3, 9) is None
    assert db.keys() == []


@pytest.mark.usefixtures("cell")
def test_dropped_keys_are_counted_out(db, scripts):
    fold(db, scripts, [("a", b"1"), ("b", b"1"), ("c", b"1")])
    drop = [state("a"), state("b"), state("never there")]
    before = dumped(db)
    assert piped(db, scripts.drop_keys, APPLIED, drop, "one", 2) is None
    assert piped(db, scripts.drop_keys, APPLIED, drop, "two", 3) is None
    assert dumped(db) == before
    assert piped(db, scripts.drop_keys, APPLIED, drop, "one", 3) == 2
    assert piped(db, scripts.drop_keys, APPLIED, drop, "one", 3) == 0
    assert (count(db), db.exists(state("c"))) == (1, 1)


# --- deadlines -----------------------------------------------------------------------------------


def dated(name: str, deadline: int | None, **fields) -> tuple[str, bytes]:
    return name, seal(name, MSGPACK, b"\x01", deadline=deadline, **fields)


def deadlines(db) -> dict[int, int]:
    fields = db.hgetall(APPLIED)
    return {int(k[1:]): int(v) for k, v in fields.items() if k[:1] == b"d"}


def now_ms(db) -> int:
    seconds, micros = db.time()
    return seconds * 1000 + micros // 1000


@pytest.mark.usefixtures("cell")
@pytest.mark.parametrize("key_id", [b"", b"k", b"k" * 255])
def test_a_deadline_is_counted_and_becomes_an_expiry(db, scripts, key_id):
    at = now_ms(db)
    sets = [dated("a", at, key_id=key_id), dated("b", at + 5, key_id=key_id), dated("c", None)]
    assert fold(db, scripts, sets, offset=60_000) == [b"ok"]
    assert deadlines(db) == {at: 1, at + 5: 1}
    assert (count(db), db.hget(APPLIED, "slack")) == (3, b"60000")
    assert 50_000 < db.pttl(state("a")) <= 60_000
    assert 50_000 < db.pttl(state("b")) <= 60_005
    assert db.pttl(state("c")) == -1
    assert db.get(state("a")) == sets[0][1]


@pytest.mark.usefixtures("cell")
def test_a_new_deadline_takes_the_place_of_the_old_one(db, scripts):
    at = now_ms(db)
    fold(db, scripts, [dated("a", at), dated("b", at), dated("c", at)], offset=60_000)
    changes = [dated("a", at + 9), dated("b", None)]
    assert fold(db, scripts, changes, ["c"], at=(9, 10), offset=60_000) == [b"ok"]
    assert (deadlines(db), count(db)) == ({at + 9: 1}, 2)
    assert db.pttl(state("b")) == -1, "a key that owes something has no expiry"
    assert fold(db, scripts, [], ["a", "never there"], at=(10, 11), offset=60_000) == [b"ok"]
    assert (deadlines(db), count(db)) == ({}, 1)


@pytest.mark.usefixtures("cell")
def test_a_step_that_lost_its_retention_is_still_counted_right(db, scripts):
    at = now_ms(db)
    fold(db, scripts, [dated("a", at), dated("b", at)], offset=60_000)
    assert fold(db, scripts, [dated("a", None)], ["b"], at=(9, 10)) == [b"ok"]
    assert (deadlines(db), count(db), db.pttl(state("a"))) == ({}, 1, -1)


@pytest.mark.usefixtures("cell")
def test_the_slack_is_the_least_that_was_ever_added(db, scripts):
    at = now_ms(db)
    for epoch, offset, slack in [(8, 60_000, b"60000"), (9, 90_000, b"60000"), (10, 7, b"7")]:
        fold(db, scripts, [dated("a", at)], at=(epoch - 1, epoch), offset=offset)
        assert db.hget(APPLIED, "slack") == slack


@pytest.mark.usefixtures("cell")
def test_chunks_folded_again_count_once(db, scripts):
    at = now_ms(db)
    for _ in range(2):
        fold(db, scripts, [dated("a", at)], offset=60_000, last=False)
    fold(db, scripts, [dated("b", at)], offset=60_000, chunk=2)
    assert (deadlines(db), count(db)) == ({at: 2}, 2)


@given(
    epochs=st.lists(
        st.dictionaries(
            st.sampled_from("abcdef"),
            st.one_of(st.none(), st.just(0), st.integers(1, 3)),
            min_size=1,
        ),
        max_size=8,
    )
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_counts_of_deadlines_are_those_of_the_keys(db, scripts, epochs):
    """Redis equals dict: no deadline (0), one of three, or deleted (None), in any order."""
    db.flushall()
    create(db, scripts)
    start, kept = now_ms(db), {}
    for epoch, changes in enumerate(epochs, 8):
        sets = [dated(k, start + d if d else None) for k, d in changes.items() if d is not None]
        gone = [name for name, d in changes.items() if d is None]
        fold(db, scripts, sets, gone, at=(epoch - 1, epoch), offset=60_000)
        kept = {k: d for k, d in (kept | changes).items() if d is not None}
        assert count(db) == len(kept)
        assert deadlines(db) == Counter(start + d for d in kept.values() if d)


@pytest.mark.usefixtures("cell")
def test_expiries_are_moved_by_the_owner_only(db, scripts):
    at = now_ms(db)
    fold(db, scripts, [dated("a", at), dated("b", at)], offset=60_000)
    names, times = [state("a"), state("b"), state("gone")], [at + 90_000, at + 99_000, at]
    assert piped(db, scripts.renew_keys, APPLIED, names, "one", 2, times) is None
    assert piped(db, scripts.renew_keys, APPLIED, names, "two", 3, times) is None
    assert db.pttl(state("a")) <= 60_000
    assert piped(db, scripts.renew_keys, APPLIED, names, "one", 3, times) == 2
    assert db.pttl(state("a")) > 80_000
    assert db.pttl(state("b")) > 90_000


@pytest.mark.usefixtures("cell")
def test_values_are_resealed_by_the_owner_only_and_only_what_was_read(db, scripts):
    at = now_ms(db)
    fold(db, scripts, [dated("a", at), dated("b", at), dated("c", None)], offset=60_000)
    names = [state(name) for name in ("a", "b", "c", "gone")]
    read = [(db.get(name) or b"\xb1\0crc_")[:6] for name in names]
    db.set(state("b"), b"\xb1\0newer value", keepttl=True)
    before = dumped(db)
    pairs = [part for begins in read for part in (begins, b"\xb1resealed")]
    assert piped(db, scripts.reseal_keys, APPLIED, names, "one", 2, pairs) is None
    assert piped(db, scripts.reseal_keys, APPLIED, names, "two", 3, pairs) is None
    assert dumped(db) == before
    assert piped(db, scripts.reseal_keys, APPLIED, names, "one", 3, pairs) == 2
    assert db.mget(names) == [b"\xb1resealed", b"\xb1\0newer value", b"\xb1resealed", None]
    assert 0 < db.pttl(state("a")) <= 60_000
    assert db.pttl(state("c")) == -1
    assert count(db) == 3


@pytest.mark.usefixtures("cell")
def test_what_has_expired_is_counted_out_by_the_owner_only(db, scripts):
    at = now_ms(db)
    fold(db, scripts, [dated(n, at) for n in "abc"] + [dated("d", None)], offset=60_000)
    before = dumped(db)
    assert piped(db, scripts.settle_deadlines, APPLIED, "one", 2, 9, {at: 2}) is None
    assert piped(db, scripts.settle_deadlines, APPLIED, "two", 3, 9, {at: 2}) is None
    assert dumped(db) == before
    assert piped(db, scripts.settle_deadlines, APPLIED, "one", 3, None, {at: 2}) == 2
    assert (deadlines(db), db.hget(APPLIED, "slack")) == ({at: 1}, b"60000")
    assert piped(db, scripts.settle_deadlines, APPLIED, "one", 3, 70_000, {at: 1}) == 1
    assert (deadlines(db), db.hget(APPLIED, "slack")) == ({}, b"70000")


# --- leases --------------------------------------------------------------------------------------


def lease(owner: str) -> str:
    return json.dumps({"id": owner, "pid": 1})


def test_a_free_lease_is_taken_and_renewed_by_its_owner_only(db, scripts):
    assert scripts.claim_lease(LEASE, "me", lease("me"), 5000) is None
    assert 4000 < db.pttl(LEASE) <= 5000
    assert scripts.claim_lease(LEASE, "me", lease("me"), 9000) is None
    assert db.pttl(LEASE) > 5000
    assert scripts.claim_lease(LEASE, "you", lease("you"), 5000) == lease("me").encode()
    assert db.get(LEASE) == lease("me").encode()


@pytest.mark.parametrize("replaced", ["me", "*"])
def test_an_owner_may_be_replaced_by_name_or_by_force(db, scripts, replaced):
    scripts.claim_lease(LEASE, "me", lease("me"), 5000)
    assert scripts.claim_lease(LEASE, "you", lease("you"), 5000, "somebody else") is not None
    assert scripts.claim_lease(LEASE, "you", lease("you"), 5000, replaced) is None
    assert db.get(LEASE) == lease("you").encode()


def test_a_lease_is_given_back_by_its_owner_only(db, scripts):
    scripts.claim_lease(LEASE, "me", lease("me"), 5000)
    assert not scripts.release_lease(LEASE, "you")
    assert db.exists(LEASE)
    assert scripts.release_lease(LEASE, "me")
    assert not scripts.release_lease(LEASE, "me")
    assert not db.exists(LEASE)


# --- the server forgets scripts ------------------------------------------------------------------


@pytest.mark.usefixtures("cell")
def test_a_script_that_the_server_has_forgotten_is_loaded_again(db, scripts):
    db.script_flush()
    assert scripts.claim_lease(LEASE, "me", lease("me"), 5000) is None
    db.script_flush()
    assert fold(db, scripts, [("a", b"1")]) == [b"ok"]
