"""The methods of a state backend that take, restore and verify checkpoints.

Every kind of backend reads the file of every other kind.
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
        """Open all keys of this backend, as a dump reads them and a restore writes them."""

    def checkpoint(
        self,
        to: PathOrFile | Dumpable,
        *,
        replace: bool = False,
        merge: bool = False,
        progress: OnProgress | bool = False,
    ) -> CheckpointInfo:
        """Write all keys, with their values as stored and the TTL that each has left.

        A checkpoint is no snapshot of one moment: each key is as it was when it was read. A key
        that exists from beginning to end is in it; a key that is written meanwhile may be. Locks
        are not.

        :arg to: A path, where the file appears when it is complete, in place of an older one; a
            file open for writing bytes; or another backend, into whose namespace keys are copied.
        :arg replace: For another backend: whether to delete its keys first.
        :arg merge: For another backend: whether to keep its keys; where both have a key, the copy
            wins.
        :arg progress: Gets keys done and an estimate of all; ``True`` shows a bar on a terminal.
        :returns: Header and counts; for a file the same as :meth:`verify` gives.
        :raises CheckpointError: If the file can't be written, another program wrote a key of this
            prefix, or one of the two prefixes is a part of the other.
        :raises RestoreUnfinishedError: If a restore into this backend, or into the other one, has
            not been finished.
        :raises NamespaceNotEmptyError: If the other backend holds keys, and neither ``replace`` nor
            ``merge`` is given.
        :raises DecodeError: If a value can't be encoded for the other backend.
        """
        if isinstance(to, Dumpable):
            return to._copy_from(self, replace=replace, merge=merge, progress=progress).info
        if replace or merge:
            raise ConfigError(
                "replace or merge is True, and the checkpoint goes to a file",
                "leave them out: the file takes the place of an older one when it is complete",
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
        """Write the keys of a checkpoint into this backend.

        A file is read to its end and checked before anything is written. A marker in Redis shows
        that a restore runs, and an interrupted one leaves it: see :meth:`unfinished_restore`.

        Values that are encrypted or signed belong to their prefix. For another prefix they are
        encoded again, and this backend's codec needs their old encryption and signing keys.

        :arg from_: A path, a file open for reading bytes (a pipe goes through a temporary file), or
            another backend, whose keys are copied.
        :arg replace: Whether to delete this backend's keys first. This also clears the rest of an
            interrupted restore.
        :arg merge: Whether to keep this backend's keys; the checkpoint wins where both have a key.
        :arg deadlines: For a file: whether the time since the checkpoint was taken counts against
            TTLs. If not, the TTL that a key had left then starts again now.
        :arg progress: Gets keys done and their number; ``True`` shows a bar on a terminal.
        :returns: The counts.
        :raises CheckpointDamagedError: If the file is cut off or altered; nothing was written.
        :raises CheckpointError: If the file can't be read.
        :raises NamespaceNotEmptyError: If this backend holds keys, and neither ``replace`` nor
            ``merge`` is given.
        :raises RestoreUnfinishedError: If another restore runs, or was interrupted and neither
            ``replace`` nor ``merge`` is given.
        :raises DecodeError: If a value can't be encoded for this backend; nothing was written.
        """
        if isinstance(from_, Dumpable):
            return self._copy_from(from_, replace=replace, merge=merge, progress=progress)
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
        :returns: Its header and its counts.
        :raises CheckpointDamagedError: If any byte is missing, altered or too many.
        :raises CheckpointError: If the file can't be read.
        """
        return save.verify(from_)

    def unfinished_restore(self) -> UnfinishedRestore | None:
        """Find a restore that was begun and not finished, so that keys may be missing.

        :returns: The restore; ``None`` if there is none.
        """
        with self.key_range() as key_range:
            return restoration.unfinished(key_range)

    def _copy_from(
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
    """Make the recoding of values; only encrypted and signed ones need it."""
    if source.bound is None or into.bound is None:
        return None  # codec=None on one side: values are carried over as they are

    def recode(key: bytes, data: bytes) -> bytes:
        return source.reseal(key, data, into) if is_protected(data) else data

    return recode
