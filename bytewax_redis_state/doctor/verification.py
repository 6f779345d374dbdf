"""The verification of one flow in Redis: everything that can be checked without running it.

It reads only, also while the flow runs: what may move under it is read again before it is called
wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import redis

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.doctor.census import Census, cell_fields
from bytewax_redis_state.doctor.findings import Findings, Verification
from bytewax_redis_state.doctor.key_usage import KeyUsage
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys, Place
from bytewax_redis_state.recovery.records.cells import LOST_HINT, Cell, CellMark, cells_of
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.records.lease import Lease
from bytewax_redis_state.recovery.records.manifest import FORMAT, Manifest, read_manifest
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.scripts import Scripts

__all__ = ["verify"]

_SCAN_COUNT = 10_000


def verify(
    client: redis.Redis,
    keys: FlowKeys,
    progress: Callable[[int, int], None] = lambda done, total: None,
    codec: Codec | None = None,
) -> Verification:
    """Check a flow: manifest, leases, journals, cells, and each value's envelope.

    Signatures and encryption are checked where the secret keys are given.

    :arg client: Of the Redis that holds the flow; it is only read.
    :arg keys: Of the flow.
    :arg progress: Gets how many state keys were read, of how many.
    :arg codec: Has the secret keys; ``None`` where they are not known.
    :returns: What was found.
    """
    return _Check(client, keys, progress, codec).run()


class _Check:
    """The parts of a verification, in the order in which they are done."""

    def __init__(
        self,
        client: redis.Redis,
        keys: FlowKeys,
        progress: Callable[[int, int], None],
        codec: Codec | None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._progress = progress
        self._found = Verification(keys.flow_id, keys.namespace)
        self._seals = KeyUsage(keys, codec)
        self._findings = Findings(self._found)
        self._say = self._findings.say
        self._leased = False
        self._starting = False

    def run(self) -> Verification:
        self._look()
        self._findings.end()
        return self._found

    def _look(self) -> None:
        manifest = self._manifest()
        others = self._other_keys()
        if manifest is None:
            if any(place is not None and place.kind != "lease" for _, place in others):
                self._say("error", "the flow has keys but no manifest", LOST_HINT)
            return
        self._leases(manifest, others)
        self._counter(manifest)
        ends = {p: self._partition(manifest, p) for p in range(manifest.partitions)}
        marks = self._cells(manifest, ends)
        census = Census(
            self._client, self._keys, manifest, self._seals, self._findings, self._progress
        )
        self._found.keys = census.take(marks)
        self._orphans(manifest, others)
        self._found.signed = dict(self._seals.signed)
        self._found.encrypted = dict(self._seals.encrypted)
        for what, hint in self._seals.remarks():
            self._say("note", what, hint)

    # -- the flow as a whole ------------------------------------------------------------------

    def _manifest(self) -> Manifest | None:
        try:
            manifest = read_manifest(self._client, self._keys)
        except StateLostError as error:
            self._say("error", error.message, error.hint)
            return None
        if manifest is not None and manifest.format != FORMAT:
            self._say(
                "error",
                f"the flow has format {manifest.format}, this version reads {FORMAT}",
                "use the version that wrote it",
            )
            return None
        self._found.manifest = manifest
        if manifest is not None and manifest.renewing:
            self._say(
                "warning",
                "Redis was emptied while the flow ran, and its state is not whole again",
                "if the flow runs, wait; if it has ended, delete its keys to begin anew",
            )
        return manifest

    def _other_keys(self) -> list[tuple[bytes, Place | None]]:
        """Find all keys of the flow but its states: there are few of them."""
        found: dict[bytes, Place | None] = {}
        for pattern in self._keys.patterns:
            for key in self._client.scan_iter(match=pattern, count=_SCAN_COUNT):
                place = self._keys.parse(key)
                if place is None or place.kind != "state":
                    found[key] = place
        return sorted(found.items())

    def _leases(self, manifest: Manifest, others: Sequence[tuple[bytes, Place | None]]) -> None:
        for key, place in others:
            if place is None or place.kind != "lease":
                continue
            value = cast("bytes | None", self._client.get(key))
            if value is None:  # expired since
                continue
            try:
                lease = Lease.from_json(value)
            except StateLostError as error:
                self._say("error", error.message, error.hint)
                continue
            listed, self._leased = lease.id in manifest.processes, True
            self._starting = self._starting or (lease.phase == "joining" and not listed)
            self._say("note", f"{lease.phase}: {lease.whereabouts}", "it may change what is read")
            if lease.phase != "joining" and not listed:
                self._say(
                    "warning",
                    f"process {lease.process} holds a lease, but the manifest does not list it",
                    "it was taken over, and ends as soon as it notices",
                )
            if self._client.pttl(key) == -1:
                self._say(
                    "error", f"the lease {key.decode()!r} never expires", "delete it if it is stale"
                )

    def _counter(self, manifest: Manifest) -> None:
        text = cast("bytes | None", self._client.get(self._keys.generation))
        try:
            stands = Token.parse(text or b"")
        except ValueError:
            self._say("error", f"the generation counter is {text!r}", LOST_HINT)
            return
        if stands.generation < manifest.generation:
            self._say(
                "error",
                f"the generation counter stands at {stands.generation}, the manifest at "
                f"{manifest.generation}",
                LOST_HINT,
            )
        elif stands.generation > manifest.generation:
            self._starting = True
            self._say(
                "note",
                f"a start got as far as generation {stands.generation} and wrote no manifest",
                "it is under way, or died; the next start does what is left",
            )
        elif stands != manifest.token:
            self._say(
                "error", f"the generation counter is of {_apart(stands, manifest)}", LOST_HINT
            )

    # -- journals -----------------------------------------------------------------------------

    def _partition(self, manifest: Manifest, partition: int) -> tuple[int, int] | None:
        """Check a partition.

        :returns: Below which epoch its journal is folded, and below which all is in it; ``None``
            where that can't be told.
        """
        keys, name = self._keys, f"partition {partition}"
        key = keys.progress(partition, manifest.generation)
        before = self._progress_of(key, manifest, name)
        if before is None:
            return None
        journal = keys.journal(partition, manifest.generation)
        if not self._client.exists(journal):
            self._say("error", f"the journal of {name} is missing", LOST_HINT)
            return None
        reader = Journal(
            self._client,
            Scripts(self._client),
            keys,
            manifest.incarnation,
            manifest.token,
            partition,
        )
        last = self._entries(reader, manifest, name, before["trimmed"])
        self._ends(journal, name, before["trimmed"])
        after = self._progress_of(key, manifest, name)
        if after is None:
            return None
        if last > after["row"]:
            self._say(
                "error",
                f"the journal of {name} ends at row {last}, its progress says {after['row']}",
                LOST_HINT,
            )
        if not manifest.resume_epoch <= after["trimmed"] <= after["epoch"]:
            self._say(
                "error",
                f"progress of {name}: epoch {after['epoch']}, folded below {after['trimmed']}, "
                f"but the generation began at {manifest.resume_epoch}",
                LOST_HINT,
            )
        return after["trimmed"], after["epoch"]

    def _progress_of(self, key: bytes, manifest: Manifest, name: str) -> dict[str, int] | None:
        fields = cast("dict[bytes, bytes]", self._client.hgetall(key))
        if not fields:
            self._say("error", f"the progress of {name} is missing", LOST_HINT)
            return None
        if fields.get(b"incarnation") != manifest.incarnation.encode():
            self._say("error", f"the progress of {name} is of another life of the flow", LOST_HINT)
            return None
        try:
            token = Token.parse(fields[b"generation"])
            if token != manifest.token:
                self._say(
                    "error", f"the progress of {name} is of {_apart(token, manifest)}", LOST_HINT
                )
                return None
            return {part: int(fields[part.encode()]) for part in ("epoch", "row", "trimmed")}
        except (KeyError, ValueError) as error:
            self._say("error", f"the progress of {name} is damaged: {error!r}", LOST_HINT)
            return None

    def _entries(self, journal: Journal, manifest: Manifest, name: str, trimmed: int) -> int:
        """Read a journal through.

        :returns: Row of its last entry.
        """
        last = 0
        try:
            for entry in journal.entries(0, 2**63):
                self._found.entries += 1
                last = entry.row
                if entry.epoch < trimmed:
                    self._say(
                        "error",
                        f"the journal of {name} holds epoch {entry.epoch}, but is folded below "
                        f"{trimmed}",
                        LOST_HINT,
                        kind=f"folded entries in the journal of {name}",
                    )
                cell = entry.cell
                if cell.step not in manifest.steps or not 0 <= cell.shard < manifest.shards:
                    self._say(
                        "error",
                        f"entry {entry.epoch}-{entry.row} of {name} is of shard {cell.shard} of "
                        f"step {cell.step!r}, which the manifest does not have",
                        LOST_HINT,
                        kind=f"foreign entries in the journal of {name}",
                    )
                    continue
                for raw, value in entry.changes.items():
                    state_key = raw.decode()
                    fault = value and self._seals.fault(cell.step, state_key, value)
                    if fault:
                        where = f"entry {entry.epoch}-{entry.row} of {name}"
                        self._findings.damaged(f"the value of {state_key!r} in {where}", fault)
        except StateLostError as error:
            self._say("error", error.message, error.hint)
        return last

    def _ends(self, journal: bytes, name: str, trimmed: int) -> None:
        """Tell whether somebody deleted entries: the stream remembers its last one."""
        about = cast("dict[str, object]", self._client.xinfo_stream(journal))
        made = cast(bytes, about["last-generated-id"])
        last = cast("tuple[bytes, object] | None", about["last-entry"])
        gone = cast("bytes | None", about.get("max-deleted-entry-id"))  # Redis 7 on
        epoch = int(made.partition(b"-")[0])
        lost_tail = epoch >= trimmed and epoch > 0 and (last is None or last[0] != made)
        if lost_tail or (gone is not None and int(gone.partition(b"-")[0]) > 0):
            self._say("error", f"entries of the journal of {name} were deleted", LOST_HINT)

    # -- cells --------------------------------------------------------------------------------

    def _cells(
        self, manifest: Manifest, ends: Mapping[int, tuple[int, int] | None]
    ) -> dict[Cell, CellMark]:
        marks = {}
        for cell, fields in cell_fields(
            self._client, self._keys, cells_of(manifest.steps, manifest.shards)
        ):
            try:
                mark = CellMark.parse(cell, fields, manifest.incarnation)
            except StateLostError as error:
                self._say("error", error.message, error.hint, kind="cells missing or damaged")
                continue
            marks[cell] = mark
            self._place(manifest, cell, mark, ends)
        return marks

    def _place(
        self,
        manifest: Manifest,
        cell: Cell,
        mark: CellMark,
        ends: Mapping[int, tuple[int, int] | None],
    ) -> None:
        where = f"shard {cell.shard} of step {cell.step!r}"
        if mark.token != manifest.token and not self._starting:
            self._say(
                "error",
                f"{where} is of {_apart(mark.token, manifest)}",
                LOST_HINT,
                kind="cells of another generation",
            )
            return
        for partition, end in ends.items():
            if end is None or self._starting:
                continue
            trimmed, epoch = end
            applied = mark.applied(partition)
            # The other end moves only on: a fold since then may have applied more.
            if applied < trimmed - 1 or (applied >= epoch and not self._leased):
                self._say(
                    "error",
                    f"{where} has applied epoch {applied} of partition {partition}, whose journal "
                    f"begins at {trimmed} and ends before {epoch}",
                    LOST_HINT,
                    kind="cells that do not fit the journal",
                )
        if mark.marks and not self._leased:
            self._say(
                "warning",
                f"a fold of {where} stopped midway",
                "the next start finishes it",
                kind="unfinished folds",
            )

    # -- the rest -----------------------------------------------------------------------------

    def _orphans(self, manifest: Manifest, others: Sequence[tuple[bytes, Place | None]]) -> None:
        for key, place in others:
            name = key.decode(errors="replace")
            if place is None:
                self._say(
                    "error", f"the key {name!r} is none of ours", "delete it if it is foreign"
                )
            elif place.kind in ("journal", "progress"):
                self._orphaned_partition(manifest, name, place)
            elif place.kind == "applied" and (
                place.step not in manifest.steps or place.number >= manifest.shards
            ):
                self._say(
                    "warning",
                    f"the cell {name!r} is of a step or shard that the manifest does not have",
                    "nobody reads it: delete it",
                    kind="cells of unknown steps",
                )

    def _orphaned_partition(self, manifest: Manifest, name: str, place: Place) -> None:
        if place.generation == manifest.generation and place.number < manifest.partitions:
            return
        if place.generation < manifest.generation:
            self._say(
                "note",
                f"{name!r} is left from generation {place.generation}",
                "the flow deletes it when it runs next",
                kind="keys of older generations",
            )
        elif not self._starting:
            self._say(
                "error",
                f"{name!r} is of generation {place.generation}, partition {place.number}, which "
                "the manifest does not have",
                LOST_HINT,
                kind="keys of newer generations",
            )


def _apart(found: Token, manifest: Manifest) -> str:
    """Say of which start something is, and of which one the manifest."""
    if found.generation != manifest.generation:
        return f"generation {found.generation}, the manifest of {manifest.generation}"
    return (
        f"start {found.start or 'unknown'} of generation {found.generation}, the manifest of "
        f"start {manifest.start}"
    )
