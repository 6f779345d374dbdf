"""The start of a generation: each step, each thing that may be missing, and two starts at once."""

from __future__ import annotations

import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from bytewax_redis_state.dataflow.steps import StateStep
from bytewax_redis_state.errors import FencedError, PartitionMissingError, StateLostError
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.fold import _Channels, _Round
from bytewax_redis_state.recovery.records.lease import this_owner
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.recovery.records.sweep import sweep
from bytewax_redis_state.recovery.start import steps as module
from bytewax_redis_state.recovery.start.takeover import require_partitions
from bytewax_redis_state.server.client import Client
from tests.recovery.conftest import KEYED, SHARDS, SOURCE, FlowInRedis

MAX = StateStep("max", "flow.max.core", "flow.max.core.shards", "keyed")
STEPS = [
    "bumped",
    "newest",
    "fenced",
    "cells",
    "epoch",
    "checked",
    "folded",
    "settled",
    "written",
    "cleaned",
]


class Died(BaseException):
    """A start is gone, as if by SIGKILL: nothing of it runs any more."""


@pytest.fixture
def die_after(monkeypatch):
    """Let the next starts die right after a numbered step."""

    def arm(doomed: str | None) -> None:
        def reached(step: str) -> None:
            if step == doomed:
                raise Died

        monkeypatch.setattr(module, "reached", reached)

    return arm


def swept_generations(flow: FlowInRedis) -> set[int]:
    """Older generations of which anything is left after the sweep that the replicator makes."""
    sweep(flow.store)
    found = map(flow.keys.parse, flow.client.scan_iter(flow.keys.partition_pattern))
    return {place.generation for place in found} - {flow.manifest.generation}


# --- the ordinary course -------------------------------------------------------------------------


def test_a_founded_flow_has_all_that_a_start_should_make(flow):
    """Rule 10: applied of every cell exists from the first generation on."""
    manifest = flow.start([KEYED, SOURCE], processes=2)
    assert (manifest.generation, manifest.resume_epoch, manifest.partitions) == (1, 1, 2)
    expected = {flow.keys.generation, flow.keys.manifest}
    for shard in range(SHARDS):
        expected |= {flow.applied(shard), flow.applied(shard, "in")}
    for partition in range(2):
        expected |= {flow.keys.journal(partition, 1), flow.keys.progress(partition, 1)}
    assert flow.all_keys() == expected
    assert read_manifest(flow.client, flow.keys) == manifest


def test_generations_grow_and_epochs_never_go_back(started):
    epochs = [started.manifest.resume_epoch]
    for generation in (2, 3, 4):
        started.commit(epochs[-1], {"a": b"%d" % generation})
        started.start()
        assert started.manifest.generation == generation
        epochs.append(started.manifest.resume_epoch)
    assert epochs == [1, 2, 3, 4]
    assert started.state() == {"a": b"4"}


def test_what_is_committed_is_folded_and_the_rest_dropped(flow):
    """Rules 5f and 5h: E is the least progress; above it nothing counts."""
    flow.start(processes=2)
    flow.commit(1, {"a": b"1"}, partition=0)
    flow.commit(2, {"a": b"2"}, partition=0)
    flow.commit(1, {"b": b"1"}, partition=1)
    flow.start()
    assert flow.manifest.resume_epoch == 2
    assert flow.state() == {"a": b"1", "b": b"1"}
    assert flow.counts() == 2


def test_a_part_of_an_epoch_is_dropped(started):
    """Rule 4: an append of a part moves no progress, so a death there leaves nothing."""
    started.commit(1, {"a": b"1"})
    from bytewax_redis_state.codec.delta import pack_delta
    from bytewax_redis_state.recovery.records.cells import Cell
    from bytewax_redis_state.recovery.records.journal import Entry

    cell = Cell("sum", shard_of("a", SHARDS))
    started.journal().append(2, 3, [Entry(2, 3, cell, pack_delta({"a": b"half"}))], None)
    started.start()
    assert (started.manifest.resume_epoch, started.state()) == (2, {"a": b"1"})


def test_an_old_replicator_can_neither_append_nor_fold_nor_trim(started):
    """Rules 5d and 5e: delay a replicator until another start is over."""
    journal, fold = started.journal(), started.journal_fold()
    started.commit(1, {"a": b"1"})
    row = started.row[0]
    started.start()
    before = started.dump()
    with pytest.raises(StateLostError, match="is missing"):  # its journal is gone by now
        journal.append(row, row + 1, [], 3)
    with pytest.raises(StateLostError, match="is missing"):
        journal.trim(2)
    with pytest.raises(StateLostError, match="is missing"):
        fold.fold(journal, 0, 1)
    overtaken = pytest.raises(FencedError, match="taken over by generation 2")
    with overtaken, _Channels() as channels:  # read before it was gone
        fold._apply(_Round(to_epoch=1), 0, channels)
    assert started.dump() == before


# --- dying between two steps ---------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_start_may_die_after_any_step(flow, die_after, step):
    """Rule 5: kill a start, that drops one step and adds another, after each of its steps."""
    flow.start([KEYED, SOURCE], processes=2)
    flow.commit(1, {"a": b"1", "b": b"1"}, partition=0)
    flow.commit(1, {"part": b"9"}, step="in", partition=1)
    flow.commit(2, {"a": b"not committed"}, partition=0)
    die_after(step)
    with pytest.raises(Died):
        flow.start([MAX, SOURCE], processes=3, drop_steps=frozenset({"sum"}))
    die_after(None)
    manifest = flow.start([MAX, SOURCE], drop_steps=frozenset({"sum"}))
    assert (manifest.generation, manifest.resume_epoch) == (3, 2)
    assert flow.state("in") == {"part": b"9"}
    assert flow.restorer(engine_ids={"max": "max", "in": "in"}).read() == {"max": 0, "in": 1}
    assert swept_generations(flow) == set()
    assert flow.state("sum") == {}
    if step != "written":  # the cells of a dropped step go with the last step
        assert not [key for key in flow.all_keys() if b":sum" in key]


@pytest.mark.parametrize("step", STEPS)
def test_a_death_between_two_steps_loses_nothing(started, die_after, step):
    """Rule 5: kill the start of an unchanged flow after each of its steps, twice."""
    started.commit(1, {"a": b"1", "b": b"1"})
    started.commit(2, {"a": b"2", "b": None})
    die_after(step)
    for _ in range(2):
        with pytest.raises(Died):
            started.start()
    die_after(None)
    started.start()
    assert (started.manifest.generation, started.manifest.resume_epoch) == (4, 3)
    assert started.state() == {"a": b"2"}
    assert started.restorer().read() == {"sum": 1}
    assert swept_generations(started) == set()


# --- what Redis lost -----------------------------------------------------------------------------


def refused(flow: FlowInRedis, what: str, *steps: StateStep) -> StateLostError:
    with pytest.raises(StateLostError, match=what) as caught:
        flow.start(steps or (KEYED,))
    assert caught.value.hint
    return caught.value


def test_no_manifest_beside_other_keys_is_refused_and_the_key_named(started):
    """Rule 10: a missing manifest beside other keys of the flow stops the start and names it."""
    started.client.delete(started.keys.manifest)
    before = started.dump()
    error = refused(started, "no manifest")
    assert any(key.decode() in str(error) for key in before)
    assert started.dump() == before


def test_a_lease_alone_is_no_trace_of_a_flow(flow):
    own = this_owner(0, "", {})
    flow.client.set(flow.keys.lease(0), replace(own, id="id0").to_json())
    flow.client.set(flow.keys.lease(1), "{}")
    assert flow.start().generation == 1


def test_a_neighbours_keys_are_no_trace_of_a_flow(flow, namespace):
    flow.client.set(FlowKeys(namespace, "flow2").manifest, "x")
    flow.client.set(FlowKeys(namespace + "x", "flow").manifest, "x")
    assert flow.start().generation == 1


def test_a_lost_cell_stops_the_start_and_is_named(started):
    """Rule 10: applied of every cell exists; a missing one stops the start."""
    started.client.delete(started.applied(2))
    refused(started, "shard 2 of step 'sum' is missing")


def test_a_cell_of_another_life_is_refused(started):
    """Rule 10: generations compare within one incarnation."""
    started.client.hset(started.applied(2), "incarnation", "another")
    refused(started, "shard 2 of step 'sum' is of another life")


def test_a_counter_behind_the_manifest_is_refused(started):
    started.start()
    started.client.set(started.keys.generation, 0)
    error = refused(
        started, "the generation counter '.*' is '0', and the manifest is of generation"
    )
    follow(started, error.hint)


def test_a_counter_that_vanished_is_refused(started):
    started.client.delete(started.keys.generation)
    error = refused(started, "the generation counter '.*' is missing, and the manifest is of gen")
    follow(started, error.hint)


@pytest.mark.parametrize("value", ["", "text", "-1", "1.5", "9" * 15, "9" * 16, "1e3"])
def test_a_counter_that_is_none_is_named_and_set_right_as_the_hint_says(started, value):
    started.client.set(started.keys.generation, value)
    error = refused(started, f"the generation counter '.*' is '{re.escape(value)}'")
    follow(started, error.hint)


def follow(flow: FlowInRedis, hint: str) -> None:
    """Do what the hint about a counter says, and start again."""
    found = re.search(r"redis-cli (SET) (.*) (.*);", hint)
    assert found is not None, hint
    command, key, value = found.groups()
    flow.client.execute_command(command, *shlex.split(key), value)
    before = flow.manifest.generation
    assert flow.start().generation == before + 1


def test_applied_beyond_the_journal_is_refused(started):
    """Rule 5g: refuse if any applied is above E-1: the journal lost its tail."""
    started.commit(1, {"a": b"1"})
    started.journal_fold().fold(started.journal(), 0, 1)
    started.client.hset(started.keys.progress(0, 1), "epoch", 1)
    refused(started, "has applied epoch 1, the journal ends before 1")


def test_an_unfinished_fold_beyond_the_journal_is_refused(started):
    """Rules 5g and 8: a mark says what the cell may hold already."""
    started.client.hset(started.applied(1), "mark0", 5)
    refused(started, "shard 1 of step 'sum' has applied epoch 5")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("progress",), "the progress 'NAME/p1}:progress:2' is missing"),
        (("journal",), "the journal 'NAME/p1}:journal:2' is missing, which must hold 1 entries"),
        (
            ("journal", "progress"),
            "the journal 'NAME/p1}:journal:2' and the progress 'NAME/p1}:progress:2' are missing",
        ),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_a_partition_that_is_gone_is_refused_and_named(flow, gone, said, committed):
    """Rule 5d: a manifest follows its partitions, so one without progress or journal is a loss."""
    flow.start(processes=2)
    for partition in range(2):
        flow.commit(1, {f"k{partition}": b"1"}, partition=partition)
    flow.start(processes=2)
    if committed:
        for partition in range(2):
            flow.commit(2, {f"k{partition}": b"2"}, partition=partition)
    for kind in gone:
        flow.client.delete(getattr(flow.keys, kind)(1, 2))
    if not committed:
        said = said.replace("hold 1", "hold 0")
    stem = flow.keys.manifest.decode().removesuffix("}:manifest")
    for _ in range(2):  # a start that was refused leaves nothing that lets the next one in
        refused(flow, re.escape(said.replace("NAME", stem)))


def lose(db: Client, journal: bytes, number: int) -> None:
    db.xdel(journal, db.xrange(journal)[number][0])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda db, journal: lose(db, journal, 1), "holds 2 entries and must hold 3"),
        (lambda db, journal: lose(db, journal, 2), "holds 2 entries and must hold 3"),
        (lambda db, journal: lose(db, journal, 0), "holds 2 entries and must hold 3"),
        (lambda db, journal: db.xtrim(journal, maxlen=0), "holds 0 entries and must hold 3"),
        (lambda db, journal: db.xadd(journal, {"c": "x"}), "holds 4 entries and must hold 3"),
        (
            lambda db, journal: (lose(db, journal, 0), db.xadd(journal, {"c": "x"}, id="9-1")),
            "the newest entry of .* is 9-1, and must be 3-5242880",
        ),
    ],
)
def test_an_entry_that_is_gone_is_refused_and_the_journal_named(started, damage, said):
    """Rule 10: progress counts the entries of the journal, and knows the newest one."""
    for epoch in (1, 2, 3):
        started.commit(epoch, {"a": b"%d" % epoch})
    damage(started.client, started.keys.journal(0, 1))
    for _ in range(2):
        error = refused(started, said)
        assert started.keys.journal(0, 1).decode() in error.message


def test_entries_that_a_trim_has_found_missing_are_missed_by_the_next_start(started):
    """Rule 10: a fold that had lost an entry is not forgotten when its epoch is trimmed."""
    for epoch in (1, 2, 3):
        started.commit(epoch, {"a": b"%d" % epoch})
    lose(started.client, started.keys.journal(0, 1), 1)
    started.journal_fold().fold(started.journal(), 0, 2)
    started.journal().trim(3)
    refused(started, "holds 1 entries and must hold 2")


def test_a_journal_trimmed_beyond_what_is_applied_is_refused(started):
    """Rule 9: trimmed-below is at most applied + 1: the cell lost its head."""
    started.commit(1, {"a": b"1"})
    started.commit(2, {"a": b"2"})
    started.journal().trim(3)
    refused(started, "has applied epoch 0, the journal begins at 3")


# --- two starts ----------------------------------------------------------------------------------


def test_of_two_starts_at_once_at_most_one_wins(client, namespace):
    """Rule 5: compare-and-set; the other says that it was overtaken."""
    first = FlowInRedis(client, namespace)
    first.start()
    for round_ in range(1, 6):
        first.commit(round_, {"a": b"%d" % round_})
        flows = [FlowInRedis(client, namespace) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            outcomes = [future.exception() for future in [pool.submit(f.start) for f in flows]]
        assert outcomes.count(None) >= 1
        assert all(isinstance(o, FencedError) for o in outcomes if o is not None)
        first = max(
            (f for f, o in zip(flows, outcomes, strict=True) if o is None),
            key=lambda f: f.manifest.generation,
        )
        assert first.state() == {"a": b"%d" % round_}
        assert first.restorer().read() == {"sum": 1}


@pytest.mark.parametrize("step", STEPS[:-2])
def test_a_start_that_was_overtaken_writes_no_manifest(client, namespace, monkeypatch, step):
    """Rule 5: delay a start after each of its steps until another one is over."""
    first, slow, fast = (FlowInRedis(client, namespace) for _ in range(3))
    first.start()
    first.commit(1, {"a": b"1"})

    def reached(at: str) -> None:
        if at == step and fast.manifest is None:
            monkeypatch.setattr(module, "reached", lambda _step: None)
            fast.start([KEYED, MAX])
            fast.commit(2, {"a": b"2"})

    monkeypatch.setattr(module, "reached", reached)
    with pytest.raises((FencedError, StateLostError)):
        slow.start([SOURCE], drop_steps=frozenset({"sum"}))
    assert read_manifest(client, fast.keys) == fast.manifest
    fast.commit(3, {"b": b"3"})
    fast.journal_fold().fold(fast.journal(), 1, 3)
    assert fast.state() == {"a": b"2", "b": b"3"}
    assert fast.counts() == 2


def test_a_late_founder_leaves_the_cells_of_the_first(client, namespace, monkeypatch):
    """Two starts found a flow; the overtaken one must not fence the other's cells."""
    slow, fast = FlowInRedis(client, namespace), FlowInRedis(client, namespace)

    def reached(at: str) -> None:
        if at == "folded" and fast.manifest is None:
            monkeypatch.setattr(module, "reached", lambda _step: None)
            fast.start()

    monkeypatch.setattr(module, "reached", reached)
    with pytest.raises(FencedError):
        slow.start()
    fast.commit(1, {"a": b"1"})
    fast.journal_fold().fold(fast.journal(), 0, 1)
    assert fast.state() == {"a": b"1"}


# --- steps and partitions that go ----------------------------------------------------------------


def test_a_dropped_step_leaves_no_key(flow):
    flow.start([KEYED, SOURCE])
    flow.commit(1, {f"k{i}": b"x" for i in range(2500)})
    flow.start([SOURCE], drop_steps=frozenset({"sum"}))
    assert not [key for key in flow.all_keys() if b":sum" in key]
    flow.start([KEYED, SOURCE])
    assert flow.restorer().read() == {"sum": 0, "in": 0}


def test_a_renamed_steps_state_is_the_new_steps(started):
    started.commit(1, {"a": b"1"})
    started.start([MAX], rename_steps={"sum": "max"})
    assert started.manifest.steps["sum"].step_id == MAX.step_id
    assert started.restorer(engine_ids={"sum": MAX.engine_id}).read() == {"sum": 1}


def test_keys_under_a_new_steps_name_are_refused(flow):
    """Rule 10: a cell with keys is never made anew."""
    flow.start([SOURCE])
    flow.client.hset(flow.applied(1), mapping={"incarnation": "old", "count": 3})
    refused(flow, "step 'sum' is new to the manifest, but shard 1 has 3 keys", SOURCE, KEYED)


def test_state_of_a_partition_no_longer_listed_is_refused(flow):
    """Rule 17: our error with the option that drops it."""
    flow.start([SOURCE], parts={"in": ["a", "b"]})
    flow.commit(1, {"a": b"1", "b": b"1"}, step="in")
    with pytest.raises(PartitionMissingError, match=r"partition 'a' of step 'in'") as caught:
        flow.start([SOURCE], parts={"in": ["b"]})
    assert "--drop-partition in:a" in caught.value.hint
    flow.start([SOURCE], parts={"in": ["b"]}, drop_partitions=frozenset({"in:a"}))
    assert flow.state("in") == {"b": b"1"}
    assert flow.restorer().read() == {"in": 1}


def test_a_partition_without_state_may_go(flow):
    flow.start([SOURCE], parts={"in": ["a", "b"]})
    flow.commit(1, {"b": b"1"}, step="in")
    flow.start([SOURCE], parts={"in": ["b"]})
    assert flow.manifest.parts == {"in": ("b",)}


def test_partitions_are_required_before_anything_is_written(flow):
    flow.start([SOURCE], parts={"in": ["a"]})
    flow.commit(1, {"a": b"1"}, step="in")
    flow.start([SOURCE], parts={"in": ["a"]})
    before = flow.dump()
    plan = flow.plan(flow.known(), [SOURCE], {"in": []})
    with pytest.raises(PartitionMissingError, match=r"\(listed: none\)"):
        require_partitions(flow.client, flow.keys, plan, SHARDS)
    assert flow.dump() == before
