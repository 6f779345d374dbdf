"""What a state backend offers of checkpoints, whatever keeps its keys.

A file that one kind of backend wrote, every other one reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import partial

from bytewax_redis_state.backend.dump import copy, restoration, save
from bytewax_redis_state.backend.dump.checkpoint_file import CheckpointInfo
from bytewax_redis_state.backend.dump.file_access import PathOrFile
from bytewax_redis_state.backend.dump.key_range import KeyRange
from bytewax_redis_state.backend.dump.progress_bar import OnProgress
from bytewax_redis_state.backend.dump.restoration import Recode, Restored, UnfinishedRestore
from bytewax_redis_state.backend.values import Values
from bytewax_redis_state.codec.envelope import is_protected
from bytewax_redis_state.errors import ConfigError

__all__ = ["Dumpable"]


class Dumpable(ABC):
    """Take checkpoints of all keys, and restore them."""

    _values: Values

    @abstractmethod
    def key_range(self) -> AbstractContextManager[KeyRange]:
        """Open all keys of this backend, as a checkpoint sees them."""

    def checkpoint(
        self,
        to: PathOrFile | Dumpable,
        *,
        replace: bool = False,
        merge: bool = False,
        progress: OnProgress | bool = False,
    ) -> CheckpointInfo:
        """Write all keys, with their values as stored and the time they have left.

        It is no snapshot of one moment: each key is as it was when it was read. What was there from
        beginning to end is in it; what is written meanwhile may be. Locks are not.

        :arg to: A path, where it shows when it is complete, in place of what was there; a file open
            for writing bytes; or another backend, into whose namespace the keys are copied.
        :arg replace: For another backend: whether to delete what it holds first.
        :arg merge: For another backend: whether to keep it; what is copied wins.
        :arg progress: Gets keys done and an estimate of all; ``True`` shows a bar on a terminal.
        :returns: What it is and holds; for a file the same as :meth:`verify` says.
        :raises CheckpointError: If it can't be written, a key of this prefix is another program's,
            or one of the two prefixes is a part of the other.
        :raises RestoreUnfinishedError: If a restore into this backend, or into the other one, has
            not been finished.
        :raises NamespaceNotEmptyError: If the other backend holds keys, and neither is said.
        :raises DecodeError: If a value can't be made readable for the other backend.
        """
        if isinstance(to, Dumpable):
            return to._take_over(self, replace=replace, merge=merge, progress=progress).info
        if replace or merge:
            raise ConfigError(
                "replace or merge is True and the checkpoint goes to a file",
                "leave them out: a file is replaced when the new one is complete",
            )
        with self.key_range() as key_range:
            return save.save(key_range, to, progress=progress)

    def restore(
        self,
        from_: PathOrFile | Dumpable,
        *,
        replace: bool = False,
        merge: bool = False,
        deadlines: bool = False,
        progress: OnProgress | bool = False,
    ) -> Restored:
        """Write what a checkpoint holds into this backend.

        A file is read to its end and checked before anything is written. While keys are written a
        marker says so, and an interrupted restore leaves it: see :meth:`unfinished_restore`.

        Values that are encrypted or signed belong to their prefix. They are encoded anew for
        another one, for which this backend's codec needs the old keys.

        :arg from_: A path, a file open for reading bytes (a pipe goes through a scratch file), or
            another backend, whose keys are copied.
        :arg replace: Whether to delete what this backend holds first; finishes an interrupted one.
        :arg merge: Whether to keep it; the checkpoint wins where both have a key.
        :arg deadlines: For a file: whether times to live went on while it lay about; else the time
            that a key had left at the checkpoint counts from now.
        :arg progress: Gets keys done and their number; ``True`` shows a bar on a terminal.
        :returns: What it did.
        :raises CheckpointDamagedError: If the file is cut off or altered; nothing was written.
        :raises CheckpointError: If it can't be read.
        :raises NamespaceNotEmptyError: If this backend holds keys, and neither is said.
        :raises RestoreUnfinishedError: If another restore runs, or was interrupted and neither is
            said.
        :raises DecodeError: If a value can't be made readable here; nothing was written.
        """
        if isinstance(from_, Dumpable):
            return self._take_over(from_, replace=replace, merge=merge, progress=progress)
        with self.key_range() as key_range:
            return restoration.restore(
                key_range,
                from_,
                replace=replace,
                merge=merge,
                deadlines=deadlines,
                recode_from=partial(self._recode_from, key_range.prefix),
                progress=progress,
            )

    @staticmethod
    def verify(from_: PathOrFile) -> CheckpointInfo:
        """Read a checkpoint to its end and check every byte of it; needs no server.

        :arg from_: A path, or a file open for reading bytes.
        :returns: What it is and holds.
        :raises CheckpointDamagedError: If any byte is missing, altered or too many.
        :raises CheckpointError: If it can't be read.
        """
        return save.verify(from_)

    def unfinished_restore(self) -> UnfinishedRestore | None:
        """Tell whether a restore was begun and not finished, so that keys may be missing.

        :returns: What it was; ``None`` where all is well.
        """
        with self.key_range() as key_range:
            return restoration.unfinished(key_range)

    def _take_over(
        self, source: Dumpable, *, replace: bool, merge: bool, progress: OnProgress | bool
    ) -> Restored:
        with source.key_range() as there, self.key_range() as here:
            same = there.prefix == here.prefix and source._values.codec == self._values.codec
            recode = None if same else _recode(source._values, self._values)
            return copy.copy(
                there, here, replace=replace, merge=merge, recode=recode, progress=progress
            )

    def _recode_from(self, own: bytes, prefix: bytes) -> Recode | None:
        if prefix == own:
            return None
        return _recode(Values(self._values.codec, prefix.decode(errors="replace")), self._values)


def _recode(source: Values, into: Values) -> Recode | None:
    """Make what carries values over: only those that are encrypted or signed need it."""
    if source.bound is None or into.bound is None:
        return None  # bytes as the user gave them, on one side at least

    def recode(key: bytes, data: bytes) -> bytes:
        return source.reseal(key, data, into) if is_protected(data) else data

    return recode
