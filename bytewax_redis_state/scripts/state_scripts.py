"""The Lua files of the state backend, each as the command that runs it.

A state backend describes its commands apart from sending them, so a method here makes a command
and sends nothing. Keys that one script touches share a hash tag where the server is a cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources

__all__ = ["STATE_SCRIPT_NAMES", "StateScripts", "with_source"]

Argument = bytes | str | int
Command = tuple[Argument, ...]

STATE_SCRIPT_NAMES = (
    "commit",
    "compare_and_put",
    "get_and_delete",
    "get_and_put",
    "get_refreshed",
    "increment",
    "mark_restore",
    "put_expiring",
    "read_page",
    "release_lock",
    "renew_lock",
    "set_if_not_exists",
    "take_lock",
    "write_page",
)
"""The Lua files of the state backend, without their ending."""

_DIRECTORY = resources.files(__package__)
_SOURCES = {name: _DIRECTORY.joinpath(f"{name}.lua").read_bytes() for name in STATE_SCRIPT_NAMES}
_DIGESTS = {name: hashlib.sha1(source).hexdigest() for name, source in _SOURCES.items()}
_BY_DIGEST = {digest: _SOURCES[name] for name, digest in _DIGESTS.items()}


def with_source(command: Command) -> Command:
    """Turn an EVALSHA into an EVAL, after which the server knows the script.

    :arg command: From :class:`StateScripts`.
    :returns: The same call, with the script's source in place of its digest.
    """
    return ("EVAL", _BY_DIGEST[str(command[1])], *command[2:])


def _run(name: str, keys: Sequence[bytes], *args: Argument) -> Command:
    return ("EVALSHA", _DIGESTS[name], len(keys), *keys, *args)


class StateScripts:
    """The scripts of the state backend; a TTL is in milliseconds, ``None`` for no end."""

    @staticmethod
    def get_and_delete(key: bytes) -> Command:
        """Read and delete; the reply is the value or None."""
        return _run("get_and_delete", (key,))

    @staticmethod
    def get_and_put(key: bytes, value: bytes, ttl: int | None) -> Command:
        """Replace; the reply is the value before or None."""
        return _run("get_and_put", (key,), value, "" if ttl is None else ttl)

    @staticmethod
    def set_if_not_exists(key: bytes, value: bytes, ttl: int | None) -> Command:
        """Put if there is no value; the reply is 1 if it was put."""
        return _run("set_if_not_exists", (key,), value, "" if ttl is None else ttl)

    @staticmethod
    def increment(key: bytes, by: int, ttl: int | None) -> Command:
        """Add; the reply is [sum as text], or [b"", the server's error]."""
        return _run("increment", (key,), by, "" if ttl is None else ttl)

    @staticmethod
    def compare_and_put(key: bytes, seen: str, value: bytes, ttl: int | None) -> Command:
        """Put over a version, '' for no value; the reply is 1 if it was put."""
        return _run("compare_and_put", (key,), seen, value, "" if ttl is None else ttl)

    @staticmethod
    def put_expiring(keys: Sequence[bytes], values: Sequence[bytes], ttl: int) -> Command:
        """Put many with one TTL; the reply is their number."""
        return _run("put_expiring", keys, ttl, *values)

    @staticmethod
    def get_refreshed(keys: Sequence[bytes], ttl: int) -> Command:
        """Read, and start each key's TTL again if it has one; the reply is a value or None each."""
        return _run("get_refreshed", keys, ttl)

    @staticmethod
    def take_lock(lock: bytes, owner: str, ttl: int, life: int) -> Command:
        """Take a lock; the reply is [1, fencing token] or [0, ms until it runs out].

        ``life`` is how long the key stays after the holder's time is over, in ms.
        """
        return _run("take_lock", (lock,), owner, ttl, life)

    @staticmethod
    def renew_lock(lock: bytes, owner: str, ttl: int, life: int) -> Command:
        """Start a lock's time again; the reply is 1 if the lock is still the owner's."""
        return _run("renew_lock", (lock,), owner, ttl, life)

    @staticmethod
    def release_lock(lock: bytes, owner: str, life: int) -> Command:
        """Give a lock back; the reply is 1 if the lock was still the owner's."""
        return _run("release_lock", (lock,), owner, life)

    @staticmethod
    def commit(keys: Sequence[bytes], changes: Sequence[Argument]) -> Command:
        """Carry out a transaction; the reply is 0, or the number of a key that has changed."""
        return _run("commit", keys, *changes)

    @staticmethod
    def read_page(keys: Sequence[bytes], limit: int) -> Command:
        """Read values with their TTLs; the reply is [time in ms, values, TTLs or nothing]."""
        return _run("read_page", keys, limit)

    @staticmethod
    def write_page(keys: Sequence[bytes], values: Sequence[bytes], ttls: Sequence[int]) -> Command:
        """Write values, each with its TTL or -1; the reply is how many existed before."""
        return _run("write_page", keys, *values, *ttls)

    @staticmethod
    def mark_restore(marker: bytes, seen: bytes, value: bytes) -> Command:
        """Replace a marker that is still the one seen, b"" for none; the reply is 1 if it was."""
        return _run("mark_restore", (marker,), seen, value)
