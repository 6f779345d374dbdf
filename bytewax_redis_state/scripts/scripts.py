"""Each Lua file as a typed method.

A method with ``on`` runs on that client or pipeline; on a pipeline the script's answer is in the
result of ``execute()``. Keys that one script touches share a hash tag. A generation is passed as
its token, ``<number>-<start ID>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import redis
from redis.commands.core import Script

__all__ = ["NUMBER_CHECKS", "SCRIPT_NAMES", "Scripts", "script_source"]

Argument = bytes | str | int
Executor = Any  # redis.Redis or a pipeline: redis-py gives them no common type

SCRIPT_NAMES = (
    "append",
    "bump_generation",
    "claim_lease",
    "create_cell",
    "create_partition",
    "delete_cell",
    "delete_partition",
    "drop_keys",
    "end_renewal",
    "fence_cell",
    "fence_partition",
    "fold",
    "found_flow",
    "hold_flow",
    "hold_generation",
    "note_confirming",
    "note_pickled",
    "note_safe",
    "post_answers",
    "release_lease",
    "renew_flow",
    "renew_keys",
    "reseal_keys",
    "settle_cell",
    "settle_deadlines",
    "trim_journal",
    "write_manifest",
)
"""The Lua files of this package, without their ending."""

NUMBER_CHECKS = "number_checks"
"""The Lua text that goes before each script that calculates with what a record holds."""


# Cached: many clients are made in one process, and each registers every script.
@cache
def script_source(name: str) -> str:
    """Read the Lua source of a script."""
    return resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _runnable(name: str) -> str:
    """Give a script as Redis runs it: with the checks of the numbers that it reads."""
    source = script_source(name)
    needs_checks = "whole(" in source or "number_of(" in source
    return script_source(NUMBER_CHECKS) + source if needs_checks else source


class Scripts:
    """The scripts, registered for one client.

    :arg client: A client of the server that runs them. A script that the server has forgotten is
        loaded again.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._scripts: dict[str, Script] = {
            name: client.register_script(_runnable(name)) for name in SCRIPT_NAMES
        }

    def _run(
        self,
        name: str,
        keys: Sequence[bytes],
        args: Iterable[Argument],
        on: Executor | None,
    ) -> Any:
        return self._scripts[name](keys=keys, args=args, client=on or self._client)

    def found_flow(
        self, generation_key: bytes, manifest_key: bytes, incarnation: str, shards: int, fmt: int
    ) -> str:
        """Found a flow; returns the incarnation that Redis holds afterwards."""
        args = (incarnation, shards, fmt)
        found: bytes = self._run("found_flow", (generation_key, manifest_key), args, None)
        return found.decode()

    def write_manifest(
        self,
        generation_key: bytes,
        manifest_key: bytes,
        incarnation: str,
        generation: str,
        run_id: str,
        fields: dict[str, str],
        on: Executor,
    ) -> None:
        """Replace the manifest; the pipeline's answer is 1 if the counter still stood there.

        It is -1 if the server was restarted, so that its run ID is no longer ``run_id``.
        """
        flat = [part for field in fields.items() for part in field]
        args: tuple[Argument, ...] = (incarnation, generation, run_id, *flat)
        self._run("write_manifest", (generation_key, manifest_key), args, on)

    def bump_generation(self, generation_key: bytes, start: str) -> int:
        """Take the next number for a start; returns it. Must not be repeated."""
        return int(self._run("bump_generation", (generation_key,), (start,), None))

    def hold_generation(self, generation_key: bytes, generation: str, on: Executor) -> None:
        """Write the counter once more; the pipeline's answer is 1 if it still stood there."""
        self._run("hold_generation", (generation_key,), (generation,), on)

    def hold_flow(
        self,
        generation_key: bytes,
        manifest_key: bytes,
        incarnation: str,
        generation: str,
        fields: Mapping[bytes, bytes],
    ) -> str:
        """Write a manifest or a counter that is gone again; returns the script's verdict."""
        flat = [part for field in fields.items() for part in field]
        args: tuple[Argument, ...] = (incarnation, generation, *flat)
        answer: bytes = self._run("hold_flow", (generation_key, manifest_key), args, None)
        return answer.decode()

    def renew_flow(
        self,
        generation_key: bytes,
        manifest_key: bytes,
        incarnation: str,
        generation: str,
        fields: dict[str, str],
    ) -> bool:
        """Found a running flow again; returns whether Redis held nothing of it."""
        flat = [part for field in fields.items() for part in field]
        args: tuple[Argument, ...] = (incarnation, generation, *flat)
        return bool(self._run("renew_flow", (generation_key, manifest_key), args, None))

    def post_answers(
        self,
        progress: bytes,
        incarnation: str,
        generation: str,
        called: int,
        answered: int,
        epoch: int,
    ) -> bool:
        """Note how far a renewal is; returns whether the partition is the writer's."""
        args = (incarnation, generation, called, answered, epoch)
        return bool(self._run("post_answers", (progress,), args, None))

    def note_confirming(
        self, progress: bytes, incarnation: str, generation: str, row: int, on: Executor
    ) -> None:
        """Write after all rows up to one; the pipeline's answer is the epoch of progress, or 0."""
        self._run("note_confirming", (progress,), (incarnation, generation, row), on)

    def note_pickled(
        self,
        manifest: bytes,
        incarnation: str,
        generation: str,
        steps: Sequence[str],
        on: Executor,
    ) -> None:
        """Note which steps have pickled state; the answer is 1 if the manifest is the writer's."""
        self._run("note_pickled", (manifest,), (incarnation, generation, *steps), on)

    def note_safe(self, progress: bytes, incarnation: str, generation: str, epoch: int) -> bool:
        """Note the safe epoch; returns whether the partition is the writer's.

        No failover loses a row of an epoch below it.
        """
        return bool(self._run("note_safe", (progress,), (incarnation, generation, epoch), None))

    def end_renewal(self, manifest: bytes, incarnation: str, generation: str, epoch: int) -> bool:
        """Let a flow be resumed again; returns whether the manifest is the writer's."""
        return bool(self._run("end_renewal", (manifest,), (incarnation, generation, epoch), None))

    def create_partition(
        self,
        journal: bytes,
        progress: bytes,
        incarnation: str,
        generation: str,
        epoch: int,
        on: Executor,
    ) -> None:
        """Make journal and progress of a partition; the pipeline's answer is 1 if it has both."""
        args = (incarnation, generation, epoch)
        self._run("create_partition", (journal, progress), args, on)

    def fence_partition(
        self,
        journal: bytes,
        progress: bytes,
        incarnation: str,
        generation: str,
        by: str,
        on: Executor,
    ) -> None:
        """Fence a partition and read it.

        The pipeline's answer is [flat fields of progress, whether the journal exists, number of its
        entries, ID of the newest].
        """
        args = (incarnation, generation, by)
        self._run("fence_partition", (journal, progress), args, on)

    def delete_partition(
        self,
        journal: bytes,
        progress: bytes,
        fenced_by: str,
        run_id: str,
        on: Executor | None = None,
    ) -> None:
        """Delete a partition that is no longer needed; the answer is the number of keys.

        ``fenced_by`` is the generation whose fence must be on the partition. ``run_id`` is the run
        ID of the server when the newer manifest was written. Either may be empty.
        """
        self._run("delete_partition", (journal, progress), (fenced_by, run_id), on)

    def append(
        self,
        journal: bytes,
        progress: bytes,
        incarnation: str,
        generation: str,
        before: str,
        after: str,
        epoch: int | None,
        rows: Iterable[Argument],
    ) -> list[bytes]:
        """Append rows given flat as epoch, number, cell, delta; returns the script's verdict.

        A place is the last whole row, and then ``+`` and the number of pieces of the next row,
        where some of them are in the journal.
        """
        progress_epoch: Argument = "" if epoch is None else epoch
        args = (incarnation, generation, before, after, progress_epoch, *rows)
        answer: list[bytes] = self._run("append", (journal, progress), args, None)
        return answer

    def trim_journal(
        self,
        journal: bytes,
        progress: bytes,
        incarnation: str,
        generation: str,
        epoch: int,
        run_id: str = "",
    ) -> int | None:
        """Trim below an epoch; returns the epoch, None if it is fenced, -1 if keys are missing."""
        args = (incarnation, generation, epoch, run_id)
        answer = self._run("trim_journal", (journal, progress), args, None)
        return None if answer is None else int(answer)

    def create_cell(
        self, applied: bytes, incarnation: str, generation: str, epoch: int, on: Executor
    ) -> None:
        """Make an empty cell; the pipeline's answer is the live count, -1 if fenced."""
        self._run("create_cell", (applied,), (incarnation, generation, epoch), on)

    def drop_keys(
        self,
        applied: bytes,
        state_keys: Sequence[bytes],
        incarnation: str,
        generation: str,
        on: Executor,
    ) -> None:
        """Delete state keys of a cell; the pipeline's answer is their number or None."""
        self._run("drop_keys", (applied, *state_keys), (incarnation, generation), on)

    def delete_cell(self, applied: bytes, generation: str, run_id: str, on: Executor) -> None:
        """Delete an empty cell; the pipeline's answer is the number of keys.

        ``run_id`` as in :meth:`delete_partition`.
        """
        self._run("delete_cell", (applied,), (generation, run_id), on)

    def fence_cell(self, applied: bytes, incarnation: str, generation: str, on: Executor) -> None:
        """Fence a cell; the pipeline's answer is its fields as a flat list."""
        self._run("fence_cell", (applied,), (incarnation, generation), on)

    def fold(
        self,
        applied: bytes,
        state_keys: Sequence[bytes],
        incarnation: str,
        generation: str,
        partition: int,
        from_epoch: int,
        to_epoch: int,
        *,
        chunk: int,
        last: bool,
        offset: int | None,
        values: Sequence[bytes],
        on: Executor,
    ) -> None:
        """Fold a chunk into a cell; the pipeline's answer is the script's verdict.

        ``chunk`` counts from 1. ``offset`` is the time from a deadline to the PXAT of its
        key, in ms; ``None`` if the step has no deadlines.
        """
        keys = (applied, *state_keys)
        added: Argument = "" if offset is None else offset
        number = -chunk if last else chunk
        head = (incarnation, generation, partition, from_epoch, to_epoch, number, added)
        self._run("fold", keys, (*head, len(values), *values), on)

    def renew_keys(
        self,
        applied: bytes,
        state_keys: Sequence[bytes],
        incarnation: str,
        generation: str,
        expiries: Sequence[int],
        on: Executor,
    ) -> None:
        """Set each key's PXAT in ms; the pipeline's answer is their number or None."""
        self._run("renew_keys", (applied, *state_keys), (incarnation, generation, *expiries), on)

    def reseal_keys(
        self,
        applied: bytes,
        state_keys: Sequence[bytes],
        incarnation: str,
        generation: str,
        pairs: Sequence[bytes],
        on: Executor,
    ) -> None:
        """Replace values; the pipeline's answer is their number or None.

        ``pairs`` holds for each key the first bytes of its stored value, and the new value.
        """
        self._run("reseal_keys", (applied, *state_keys), (incarnation, generation, *pairs), on)

    def settle_deadlines(
        self,
        applied: bytes,
        incarnation: str,
        generation: str,
        slack: int | None,
        gone: Mapping[int, int],
        on: Executor,
    ) -> None:
        """Subtract expired keys, by deadline in ms; the answer is the live count or None."""
        flat = [part for pair in gone.items() for part in pair]
        head = (incarnation, generation, "" if slack is None else slack)
        self._run("settle_deadlines", (applied,), (*head, *flat), on)

    def settle_cell(
        self,
        applied: bytes,
        incarnation: str,
        generation: str,
        epoch: int,
        on: Executor,
        folded: Iterable[int] = (),
    ) -> None:
        """Settle a cell at an epoch; the pipeline's answer is the live count, None if fenced.

        It is -1 if one of the folded partitions is not applied up to the epoch.
        """
        self._run("settle_cell", (applied,), (incarnation, generation, epoch, *folded), on)

    def claim_lease(
        self, lease: bytes, owner: str, value: str, milliseconds: int, replace: str | bytes = ""
    ) -> bytes | None:
        """Take a lease; returns None if it was taken, else the holder's value."""
        args = (owner, value, milliseconds, replace)
        answer: bytes | None = self._run("claim_lease", (lease,), args, None)
        return answer

    def release_lease(self, lease: bytes, owner: str) -> bool:
        """Give a lease back; returns whether it was the owner's."""
        return bool(self._run("release_lease", (lease,), (owner,), None))
