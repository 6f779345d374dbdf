"""The keyspace: the only module that builds or parses a Redis key.

====================================================  ======  ============================
key                                                   type    holds
====================================================  ======  ============================
``<ns>:{<flow>}:generation``                          string  counter, never deleted, with the
                                                              ID of the start that moved it
``<ns>:{<flow>}:manifest``                            hash    what a generation is made of
``<ns>:{<flow>}:lease:<process>``                     string  who runs this process (PX)
``<ns>:{<flow>/p<i>}:journal:<generation>``           stream  deltas of outbox partition i
``<ns>:{<flow>/p<i>}:progress:<generation>``          hash    how far partition i is
``<ns>:{<flow>/s<j>}:state:<step>:<state key>``       string  one envelope (PX)
``<ns>:{<flow>/s<j>}:applied:<step>``                 hash    how far a cell is folded
====================================================  ======  ============================

``<ns>``, ``<flow>`` and ``<step>`` are percent-escaped where they hold a character of the scheme
(braces would capture the hash tag); the state key comes last and raw. Keys are bytes.

A state backend has another scheme: its prefix, then the user's key verbatim, so that a ``{tag}`` in
a user's key counts. Its own keys begin with ``<prefix>__bytewax__:``. No user's key has
``__bytewax__:`` in it, nor the form of a flow's key.

Invariant: two different (namespace, flow, step, state key) never share a key, also when one name
is a prefix of another; and no key is both a flow's and a state backend's.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote
from zlib import crc32

from bytewax_redis_state.errors import ArgumentError

__all__ = [
    "SLOTS",
    "FlowKeys",
    "ParsedKey",
    "PrefixKeys",
    "hash_tag_of",
    "is_flow_key",
    "namespace_of",
    "namespace_pattern",
    "reaches_namespace",
    "readable_patterns",
    "shard_of",
    "slot_of",
]

_SCHEME = re.compile(r"[%:{}/\s\x00-\x1f]")
_GLOB = re.compile(rb"([*?\[\]\\])")
_LONGEST = 512 * 1024 * 1024  # bytes; the limit of Redis
_OWN = b"__bytewax__:"
_KEY_TYPES = frozenset({str, bytes})

SLOTS = 16384
"""Number of slots of a Redis Cluster."""


def shard_of(state_key: str, shards: int) -> int:
    """Give the shard of a state key.

    :arg state_key: The key in the flow.
    :arg shards: Number of shards of the flow; fixed for its life.
    :returns: ``crc32(state_key as UTF-8) % shards``.
    """
    return crc32(state_key.encode()) % shards


def _escape(name: str) -> str:
    # An empty name would make an empty hash tag, which Redis ignores; "%" alone is no escape.
    escaped = _SCHEME.sub(lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), name)
    return escaped or "%"


def _unescape(name: str) -> str:
    return "" if name == "%" else unquote(name)


def _glob_literal(key: bytes) -> bytes:
    return _GLOB.sub(rb"\\\1", key)


def namespace_pattern(namespace: str) -> bytes:
    """Make the pattern of all keys of all flows in a namespace."""
    return _glob_literal(f"{_escape(namespace)}:{{".encode()) + b"*"


def reaches_namespace(prefix: bytes, namespace: str) -> bool:
    """Tell whether keys of a state backend with a prefix could lie in a namespace of flows.

    :arg prefix: What the keys of the backend start with.
    :arg namespace: Of flows.
    """
    stem = f"{_escape(namespace)}:{{".encode()
    return stem.startswith(prefix) or prefix.startswith(stem)


def readable_patterns(namespace: str) -> tuple[bytes, ...]:
    """Make the patterns of the keys that a reader needs, of all flows in a namespace."""
    stem = _glob_literal(f"{_escape(namespace)}:{{".encode())
    return tuple(stem + b"*" + rest for rest in (b"}:manifest", b"/s*}:state:*", b"/s*}:applied:*"))


class ParsedKey(NamedTuple):
    """The parts of a flow's key.

    :arg kind: The word in the key: ``manifest``, ``journal``, ``state`` and so on.
    :arg number: Number of the process, the partition or the shard.
    :arg generation: Generation of a journal or of progress.
    :arg step: Step of a state or of a cell.
    """

    kind: str
    number: int = 0
    generation: int = 0
    step: str = ""


_FORMS = (
    re.compile(rb"\}:(?P<kind>generation|manifest)"),
    re.compile(rb"\}:(?P<kind>lease):(?P<number>\d+)"),
    re.compile(rb"/p(?P<number>\d+)\}:(?P<kind>journal|progress):(?P<generation>\d+)"),
    re.compile(rb"/s(?P<number>\d+)\}:(?P<kind>applied):(?P<step>[^:]*)"),
    re.compile(rb"/s(?P<number>\d+)\}:(?P<kind>state):(?P<step>[^:]*):.*", re.DOTALL),
)


# The beginning of every flow's key: namespace and flow, both escaped.
_FLOW_STEM = re.compile(rb"([^:{}/\s\x00-\x1f]+):\{([^:{}/\s\x00-\x1f]+)")
_STEM_BEGINNING = re.compile(rb"[^:{}/\s\x00-\x1f]*(:(\{.*)?)?", re.DOTALL)


def is_flow_key(key: bytes) -> bool:
    """Tell whether a key has the form of a flow's key, of whatever flow in whatever namespace."""
    stem = _FLOW_STEM.match(key)
    return stem is not None and any(form.fullmatch(key, stem.end()) for form in _FORMS)


def namespace_of(flow_key: bytes) -> tuple[str, str]:
    """Give namespace and flow of a key for which :func:`is_flow_key` holds."""
    stem = _FLOW_STEM.match(flow_key)
    assert stem is not None
    return _unescape(stem[1].decode(errors="replace")), _unescape(stem[2].decode(errors="replace"))


@dataclass(frozen=True)
class FlowKeys:
    """Build and parse the keys of one flow in one namespace.

    :arg namespace: Separates users of one Redis; any non-control text.
    :arg flow_id: Bytewax's flow ID.
    """

    namespace: str
    flow_id: str

    @cached_property
    def _stem(self) -> bytes:
        return f"{_escape(self.namespace)}:{{{_escape(self.flow_id)}".encode()

    def overlaps(self, prefix: bytes) -> bool:
        """Tell whether keys of a state backend with a prefix could lie among the flow's keys.

        :arg prefix: What the keys of the backend start with.
        """
        stem = self._stem
        return stem.startswith(prefix) or prefix.startswith((stem + b"}", stem + b"/"))

    @cached_property
    def generation(self) -> bytes:
        """The generation counter."""
        return self._stem + b"}:generation"

    @cached_property
    def manifest(self) -> bytes:
        """The manifest of the current generation."""
        return self._stem + b"}:manifest"

    def lease(self, process: int) -> bytes:
        """The lease of one process of the flow."""
        return self._stem + b"}:lease:%d" % process

    def journal(self, partition: int, generation: int) -> bytes:
        """The journal of one outbox partition in one generation."""
        # The number alone, without the start ID: a start to which Redis gave a number a second time
        # meets the first one's journal and is refused. With keys of its own it would leave the
        # first one writing unseen.
        return self._stem + b"/p%d}:journal:%d" % (partition, generation)

    def progress(self, partition: int, generation: int) -> bytes:
        """The progress of one outbox partition in one generation."""
        return self._stem + b"/p%d}:progress:%d" % (partition, generation)

    def applied(self, step: str, shard: int) -> bytes:
        """The fold state of one cell."""
        return self._stem + b"/s%d}:applied:%b" % (shard, _escape(step).encode())

    def state_prefix(self, step: str, shard: int) -> bytes:
        """The beginning of all keyed-state keys of one cell; append the raw state key."""
        return self._stem + b"/s%d}:state:%b:" % (shard, _escape(step).encode())

    def state(self, step: str, shard: int, state_key: str) -> bytes:
        """The keyed state of one state key."""
        return self.state_prefix(step, shard) + state_key.encode()

    @cached_property
    def state_pattern(self) -> bytes:
        """SCAN pattern for all keyed state of the flow."""
        return _glob_literal(self._stem + b"/s") + b"*}:state:*"

    @cached_property
    def shard_pattern(self) -> bytes:
        """SCAN pattern for all keys of shards; Redis matches it faster than ``state_pattern``."""
        return _glob_literal(self._stem + b"/s") + b"*"

    @cached_property
    def pattern(self) -> bytes:
        """SCAN pattern for every key of the flow, in one pass."""
        return _glob_literal(self._stem) + b"[}/]*"

    @cached_property
    def patterns(self) -> tuple[bytes, bytes]:
        """SCAN patterns for every key of the flow."""
        return _glob_literal(self._stem + b"}:") + b"*", _glob_literal(self._stem + b"/") + b"*"

    @cached_property
    def readable_patterns(self) -> tuple[bytes, bytes, bytes]:
        """Patterns of the keys that a reader needs: manifest, keyed state and cells."""
        shards = _glob_literal(self._stem + b"/s") + b"*}:"
        return _glob_literal(self.manifest), shards + b"state:*", shards + b"applied:*"

    @cached_property
    def partition_pattern(self) -> bytes:
        """SCAN pattern for journal and progress of every partition and generation."""
        return _glob_literal(self._stem + b"/p") + b"*}:*"

    def cell_prefix(self, key: bytes) -> bytes:
        """Cut a keyed-state key before the state key: equal prefixes mean one cell.

        :arg key: A key found by ``state_pattern``.
        :returns: The prefix; empty for another key.
        """
        at = key.find(b"}:state:", len(self._stem))
        return key[: key.find(b":", at + 8) + 1] if at > 0 else b""

    def parse(self, key: bytes) -> ParsedKey | None:
        """Take a key of the flow apart.

        :arg key: A key found by one of ``patterns``.
        :returns: Its parts; ``None`` for a key that this module does not build.
        """
        rest = key[len(self._stem) :]
        for form in _FORMS:
            match = form.fullmatch(rest)
            if match is not None:
                parts = match.groupdict()
                return ParsedKey(
                    parts["kind"].decode(),
                    int(parts.get("number") or 0),
                    int(parts.get("generation") or 0),
                    _unescape((parts.get("step") or b"").decode()),
                )
        return None

    def parse_state(self, key: bytes) -> tuple[str, int, str] | None:
        """Take a keyed-state key apart.

        :arg key: A key found by ``state_pattern``.
        :returns: ``(step, shard, state key)``; ``None`` for another key.
        """
        match = self._state_form.fullmatch(key)
        if match is None:
            return None
        return _unescape(match[2].decode()), int(match[1]), match[3].decode()

    @cached_property
    def _state_form(self) -> re.Pattern[bytes]:
        return re.compile(re.escape(self._stem) + rb"/s(\d+)\}:state:([^:]*):(.*)", re.DOTALL)


def hash_tag_of(key: bytes) -> bytes:
    """Give the part of a key that decides its slot: its ``{tag}``, else the whole key."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    return key[start + 1 : end] if start >= 0 and end > start + 1 else key


def slot_of(key: bytes) -> int:
    """Give the slot of a key in a Redis Cluster."""
    return crc_hqx(hash_tag_of(key), 0) % SLOTS


class PrefixKeys:
    """Build and parse the keys of one state backend.

    :arg prefix: The beginning of all its keys; any bytes, none of them special.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._own = prefix + _OWN
        self.reaches_flows = _STEM_BEGINNING.fullmatch(prefix) is not None
        """Whether the key of a flow can begin with the prefix, in one namespace or another."""

    def full(self, key: str | bytes) -> bytes:
        """Make the Redis key of a user's key.

        :arg key: Text is encoded as UTF-8.
        :returns: The prefix and then the key, verbatim.
        :raises ArgumentError: If it is empty, too long for Redis, reserved, or of another type.
        """
        try:
            raw = key.encode() if isinstance(key, str) else key
        except UnicodeEncodeError:
            raise ArgumentError(
                f"the key {key!r} can't be encoded as UTF-8", "give it as bytes"
            ) from None
        if not isinstance(raw, bytes):
            kind = type(key).__name__
            raise ArgumentError(f"the key {key!r} is of type {kind}", "give str or bytes")
        full = self.prefix + raw
        if not raw:
            raise ArgumentError("the key is empty", "give at least one character")
        if len(full) > _LONGEST:
            raise ArgumentError(
                f"the key has {len(full)} bytes with its prefix",
                "shorten it: keys of Redis have 512 MB at most",
            )
        if not self.is_users(full):
            raise _reserved(key, full)
        return full

    def full_all(self, keys: Sequence[str | bytes]) -> list[bytes]:
        """Make the Redis keys of many keys; as :meth:`full`, in a fraction of the time.

        :raises ArgumentError: As :meth:`full`, for the first wrong key.
        """
        if keys and _KEY_TYPES.issuperset(map(type, keys)):
            try:
                prefix = self.prefix
                full = [prefix + (k.encode() if isinstance(k, str) else k) for k in keys]
            except UnicodeEncodeError:
                return list(map(self.full, keys))
            sizes = set(map(len, full))
            fit = min(sizes) > len(prefix) and max(sizes) <= _LONGEST
            # One search over all keys is faster than one for each.
            text = b"\n".join(full)
            plain = _OWN not in text and not (self.reaches_flows and b"}:" in text)
            if fit and (plain or all(map(self.is_users, full))):
                return full
        return list(map(self.full, keys))

    def user(self, full: bytes) -> str | bytes:
        """Give back a user's key.

        :arg full: A Redis key that starts with the prefix.
        :returns: Text; bytes if it is not UTF-8.
        """
        raw = full[len(self.prefix) :]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def is_users(self, full: bytes) -> bool:
        """Tell whether a key is a user's, and neither a flow's nor a lock or marker of a backend.

        :arg full: A Redis key that starts with the prefix.
        """
        if _OWN in full:
            return False
        return not (self.reaches_flows and b"}:" in full and is_flow_key(full))

    def lock(self, name: str | bytes) -> bytes:
        """The lock of a name; in the slot of the name's ``{tag}`` where it has one."""
        # Under our own prefix, but with the {tag} of the name: a lock is in one slot with the keys
        # that it protects.
        return self._own + b"lock:" + self.full(name)[len(self.prefix) :]

    @property
    def holds_own(self) -> bool:
        """Whether the prefix itself lies among a backend's locks and markers."""
        return _OWN in self.prefix

    @property
    def flow_pattern(self) -> bytes:
        """SCAN pattern for keys of flows that start with the prefix; other keys match it, too."""
        rest = b"*" if b"}:" in self.prefix else b"*}:*"
        return _glob_literal(self.prefix) + rest

    @property
    def restore(self) -> bytes:
        """The mark of a restore that is under way."""
        return self._own + b"restore"

    def pattern(self, prefix: str | bytes = b"") -> bytes:
        """Make the SCAN pattern of the user's keys that start with a text, taken literally."""
        raw = prefix.encode() if isinstance(prefix, str) else prefix
        return _glob_literal(self.prefix + raw) + b"*"


def _reserved(key: str | bytes, full: bytes) -> ArgumentError:
    if _OWN in full:
        return ArgumentError(
            f"the key {key!r} contains {_OWN.decode()!r}, which is reserved", "choose another name"
        )
    namespace, flow = namespace_of(full)
    return ArgumentError(
        f"the key {key!r} would be {full!r} in Redis: a key of the flow {flow!r} in the namespace "
        f"{namespace!r}",
        "choose another name, or give the backend a key_prefix with two colons, such as 'app:x:'",
    )
