"""Damage: single records of a flow in Redis are deleted, altered or lost.

A flow may be refused after damage. But it must notice the damage and name the record, and it must
never end well with a wrong result. All records are chosen at random; the plan of the fault is the
seed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from bytewax_redis_state.chaos.schedule import PlannedFault
from bytewax_redis_state.chaos.system import StuckError, SystemUnderTest
from bytewax_redis_state.keys import FlowKeys, ParsedKey

__all__ = [
    "RECORDS",
    "WENT_BACK",
    "Damage",
    "Records",
    "alter_record",
    "delete_record",
    "lose_entries",
    "lose_some_kinds",
    "strike_records",
]

RECORDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "state": ("state", ("state key", "keys", "step")),
    "cell": ("applied", ("shard", "cell", "applied")),
    "manifest": ("manifest", ("manifest",)),
    "counter": ("generation", ("generation", "counter")),
    "progress": ("progress", ("progress", "partition")),
    "journal": ("journal", ("journal", "partition", "entr")),
    "lease": ("lease", ("lease",)),
}
"""Each kind of record: its word in a key, and the words of which an error that names it has one."""

WENT_BACK = (
    *("emptied", "went back", "older", "lost", "missing", "gone", "foreign"),
    *(word for _, words in RECORDS.values() for word in words),
)
"""Words of which an error has one that notices that a server has lost many records."""

_DOWN = 0.5  # share of the damage that is done while the flow runs
_FOUND_SECONDS = 10.0
_AT_ONCE = 0.6  # share of deleted records that are deleted, where the others get an expiry
_ANOTHER_TYPE = 0.1  # share of altered records that become a list
_ENTRY_SECONDS = 2.0
_NUMBERS = (b"", b"x", b"-1", b"1.5", b"1e3", b"10000000000000000000", b"\xff\xfe")
"""What stands in the place of a number."""
_NO_LEASES = (b"", b"no JSON", b"{}", b"[]", b"null", b'{"id": 1}')
_NESTED = b"\x91" * 400 + b"\xc0"

_Entries = Sequence[tuple[bytes, dict[bytes, bytes]]]
_Client = Any  # redis-py types the answers of the newer protocol only


@dataclass(frozen=True)
class Damage:
    """Damage that was done.

    :arg done: What was done, to which key.
    :arg names: An error that notices it has one of these words.
    """

    done: str
    names: tuple[str, ...]

    def is_named_in(self, error: str) -> bool:
        """Tell whether an error names the record."""
        return any(name in error for name in self.names)


class Records:
    """The records of a flow, and a choice among them.

    :arg client: Of the Redis that holds them.
    :arg chance: Makes all choices.
    """

    def __init__(self, client: _Client, keys: FlowKeys, chance: random.Random) -> None:
        self.client = client
        self.keys = keys
        self.chance = chance

    def all(self) -> dict[bytes, ParsedKey]:
        """Find the keys of the flow, in the order of their bytes."""
        found = {key for each in self.keys.patterns for key in self.client.scan_iter(match=each)}
        parsed = ((key, self.keys.parse(key)) for key in sorted(found))
        return {key: place for key, place in parsed if place is not None}

    def choose(self, record: str) -> bytes:
        """Choose a key.

        :arg record: A kind of :data:`RECORDS`.
        :raises StuckError: If the flow has none.
        """
        deadline = time.monotonic() + _FOUND_SECONDS
        while time.monotonic() < deadline:
            kind = RECORDS[record][0]
            found = [(key, place) for key, place in self.all().items() if place.kind == kind]
            newest = max((place.generation for _, place in found), default=0)
            keys = [key for key, place in found if place.generation == newest]
            if keys:
                return self.chance.choice(keys)
            time.sleep(0.02)
        raise StuckError(f"the flow has no {record} to strike")

    def damage(self, done: str, record: str, key: bytes) -> Damage:
        """Describe the damage that was done to a key."""
        place = self.keys.parse(key)
        step = (place.step,) if place is not None and place.step else ()
        names = (*RECORDS[record][1], *step, key.decode(errors="replace"))
        return Damage(f"{done} {key.decode(errors='replace')}", names)


def strike_records(
    system: SystemUnderTest,
    planned: PlannedFault,
    strike: Callable[[Records, PlannedFault], Damage],
) -> Damage:
    """Do some damage, while the flow runs or between two of its starts.

    :arg strike: Does it.
    """
    down = planned.offset >= _DOWN
    if down:
        system.execution.kill_groups()
    with system.deployment.client() as client:
        records = Records(client, system.keys, random.Random(str(planned)))
        damage = strike(records, planned)
    when = "while the flow was down" if down else "while the flow ran"
    return Damage(f"{damage.done}, {when}", damage.names)


# --- deleted ------------------------------------------------------------------------------------


def delete_record(record: str) -> Callable[[Records, PlannedFault], Damage]:
    """Make the strike that deletes a record, or lets it expire.

    :arg record: A kind of :data:`RECORDS`.
    """

    def strike(records: Records, planned: PlannedFault) -> Damage:
        key = records.choose(record)
        if planned.size < _AT_ONCE:
            records.client.delete(key)
            return records.damage("deleted", record, key)
        records.client.pexpire(key, int(planned.seconds * 200))
        time.sleep(planned.seconds * 0.2)
        return records.damage("set to expire", record, key)

    return strike


def lose_some_kinds(records: Records, planned: PlannedFault) -> Damage:
    """Delete several kinds of records: part of the flow remains."""
    kinds = records.chance.choice(
        (
            ("manifest", "generation", "progress"),
            ("journal", "progress"),
            ("journal",),
            ("progress",),
            ("applied",),
            ("state",),
            ("state", "applied"),
            ("manifest", "generation", "lease"),
        )
    )
    for key, place in records.all().items():
        if place.kind in kinds:
            records.client.delete(key)
    words = [word for kind, words in RECORDS.values() if kind in kinds for word in words]
    return Damage(f"deleted every {' and '.join(kinds)}", (*words, "emptied"))


# --- altered ------------------------------------------------------------------------------------


def alter_record(record: str) -> Callable[[Records, PlannedFault], Damage]:
    """Make the strike that alters a record, so that it can't be right.

    :arg record: A kind of :data:`RECORDS`.
    """
    change = _CHANGES[record]

    def strike(records: Records, planned: PlannedFault) -> Damage:
        key = records.choose(record)
        another = records.chance.random() < _ANOTHER_TYPE
        done = _another_type(records, key) if another else change(records, key)
        return records.damage(done, record, key)

    return strike


def _another_type(records: Records, key: bytes) -> str:
    """Put a list in the place of a record."""
    with records.client.pipeline(transaction=False) as pipe:
        pipe.delete(key)
        pipe.rpush(key, b"another program's")
        pipe.execute()
    return "put a list in the place of"


def _alter_state(records: Records, key: bytes) -> str:
    value: bytes = records.client.get(key) or b""
    place = records.chance.randrange(max(1, len(value)))
    other: bytes = records.client.get(records.choose("state")) or b""
    flipped = value[:place] + bytes([value[place] ^ 1 if value else 0]) + value[place + 1 :]
    name, damaged = records.chance.choice(
        [
            ("flipped a bit of", flipped),
            ("cut off the end of", value[:place]),
            ("emptied", b""),
            ("overwrote", records.chance.randbytes(20)),
            ("nested the payload of", value[:6] + _NESTED),
            ("put the value of another key into", other if other != value else b""),
        ]
    )
    records.client.set(key, damaged, keepttl=True)
    return name


def _alter_field(records: Records, key: bytes) -> str:
    """Put what is no number into a field of a hash that is one, or delete the field."""
    fields: dict[bytes, bytes] = records.client.hgetall(key)
    name = records.chance.choice(sorted(fields))
    shown = name.decode(errors="replace")
    if records.chance.random() < 0.2:
        records.client.hdel(key, name)
        return f"deleted the field {shown!r} of"
    value = records.chance.choice(_NUMBERS)
    records.client.hset(key, name, value)
    return f"set the field {shown!r} to {value!r} in"


def _alter_counter(records: Records, key: bytes) -> str:
    value = records.chance.choice((*_NUMBERS, b"9223372036854775807", b"9223372036854775807-ab"))
    records.client.set(key, value)
    return f"set to {value!r}:"


def _alter_lease(records: Records, key: bytes) -> str:
    """Put something else into a lease, or let a lease of another host stay for ever."""
    value: bytes = records.client.get(key) or b"{}"
    if records.chance.random() < 0.3:
        records.client.set(key, value.replace(b'"machine": "', b'"machine": "elsewhere '))
        return "moved to another host, for ever,"
    value = records.chance.choice(_NO_LEASES)
    records.client.set(key, value, keepttl=True)
    return f"set to {value!r}:"


def _alter_journal(records: Records, key: bytes) -> str:
    """Write a journal again, with one damaged entry."""
    entries: _Entries = records.client.xrange(key)
    if not entries:
        return "found no entry to alter in"
    entry_id, fields = records.chance.choice(entries)
    field = records.chance.choice(sorted(fields))
    value = fields[field]
    damaged = records.chance.choice((b"", value[: len(value) // 2], records.chance.randbytes(9)))
    shown = f"{field.decode()!r} of the entry {entry_id.decode()} of"
    last = _last_id(records.client, key)
    # In one transaction: a writer that found no journal between two steps would be right to stop.
    with records.client.pipeline(transaction=_is_single(records.client)) as pipe:
        pipe.delete(key)
        for each_id, each in entries:
            pipe.xadd(key, {**each, field: damaged} if each_id == entry_id else each, each_id)
        pipe.execute_command("XSETID", key, last)
        pipe.execute()
    return f"damaged the field {shown}"


_CHANGES: Mapping[str, Callable[[Records, bytes], str]] = {
    "state": _alter_state,
    "cell": _alter_field,
    "manifest": _alter_field,
    "counter": _alter_counter,
    "progress": _alter_field,
    "journal": _alter_journal,
    "lease": _alter_lease,
}


# --- journal entries ----------------------------------------------------------------------------


def lose_entries(records: Records, planned: PlannedFault) -> Damage:
    """Lose the newest entry of a journal, the newest ones of a step, or all."""
    key, entries = _journal_with_entries(records)
    if not entries:
        return records.damage("found no entry to delete in", "journal", key)
    variant = records.chance.randrange(4)
    if variant == 0:
        records.client.execute_command("XTRIM", key, "MAXLEN", 0)
        return records.damage(f"trimmed all {len(entries)} entries of", "journal", key)
    lost = entries[-1:]
    if variant == 1:
        lost = [records.chance.choice(entries)]
    elif variant == 2:
        step = entries[-1][1].get(b"c", b"").partition(b":")[2]
        lost = [each for each in entries if each[1].get(b"c", b"").endswith(b":" + step)][-5:]
    ids = [entry_id.decode() for entry_id, _ in lost]
    records.client.execute_command("XDEL", key, *ids)
    return records.damage(f"deleted the entries {', '.join(ids)} of", "journal", key)


def _journal_with_entries(records: Records) -> tuple[bytes, _Entries]:
    """Choose a journal that holds entries; wait for a moment where none does.

    :returns: Its key and its entries; none where every journal is empty.
    """
    deadline = time.monotonic() + _ENTRY_SECONDS
    while True:
        key = records.choose("journal")
        entries: _Entries = records.client.xrange(key)
        if entries or time.monotonic() > deadline:
            return key, entries
        time.sleep(0.005)


def _last_id(client: _Client, key: bytes) -> str:
    info = client.xinfo_stream(key)
    last: bytes = info["last-generated-id"]
    return last.decode()


def _is_single(client: _Client) -> bool:
    return type(client) is redis.Redis
