"""The manifest: what a generation of a flow is made of.

Invariant: it is written by compare-and-set on the generation counter, whole, and only when
everything that it names exists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import TypeVar, cast

import redis

from bytewax_redis_state.config.recovery_settings import MOST_SHARDS
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.fields import Fields, damaged
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.server.replicas import execute_confirmed

__all__ = ["FORMAT", "Manifest", "StepEntry", "note_pickled", "read_manifest", "read_pickled"]

FORMAT = 5
"""Version of everything that a flow holds in Redis.

1 knew no deadlines, 3 no start IDs, 4 neither which steps have pickled state, nor the operators
of steps, nor pieces of rows in a journal, nor how many entries it must hold; none was ever
released.
"""

_MOST_PARTITIONS = 2**16
_PICKLED = b"pickled:"
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class StepEntry:
    """A step that bears state: what the state in Redis was written by.

    :arg step_id: Full ID of the core step in the flow.
    :arg kind: ``keyed``, ``source`` or ``sink``.
    :arg operator: Name of Bytewax's operator that the user called.
    :arg operator_id: Full ID of that operator.
    """

    step_id: str
    kind: str
    operator: str = ""
    operator_id: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a generation is made of.

    :arg incarnation: Random ID of the flow's life in this Redis.
    :arg generation: Number of the start that wrote it.
    :arg partitions: Number of outbox partitions, one per process.
    :arg resume_epoch: First epoch of the generation.
    :arg processes: Random IDs of the processes that may start from it.
    :arg shards: Number of shards; fixed for the flow's life.
    :arg format: :data:`FORMAT` of whoever wrote it.
    :arg steps: Short step name to what it stands for; a name once given stays.
    :arg parts: Short name of each source and sink to the partitions it has listed.
    :arg versions: Library versions of the writer, for people.
    :arg retention: Short name of each step whose idle keys end, to how long they are kept, in
        milliseconds.
    :arg downtime: How long the flow has stood still in all, in milliseconds: what Redis's clock is
        ahead of the flow's time.
    :arg allowance: How long Redis keeps a key beyond its deadline, in milliseconds of downtime.
    :arg renewing: Whether the flow was founded again in a Redis that came back empty, and its state
        is not whole yet.
    :arg start: ID of that start; the processes of no other one may write.
    :arg time: Redis's time when it was written, in milliseconds since 1970.
    """

    incarnation: str
    generation: int = 0
    partitions: int = 0
    resume_epoch: int = 1
    processes: tuple[str, ...] = ()
    shards: int = 64
    format: int = FORMAT
    steps: Mapping[str, StepEntry] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    retention: Mapping[str, int] = field(default_factory=dict)
    downtime: int = 0
    allowance: int = 0
    renewing: bool = False
    start: str = ""
    time: int = field(default=0, compare=False)

    @property
    def token(self) -> Token:
        """Whose writes count."""
        return Token(self.generation, self.start)

    @property
    def offset(self) -> int:
        """What is added to a deadline to get the time at which Redis drops the key."""
        return self.downtime + self.allowance

    @property
    def names(self) -> dict[str, str]:
        """Full step ID to short name."""
        return {entry.step_id: name for name, entry in self.steps.items()}

    def require_whole(self, keys: FlowKeys) -> None:
        """Refuse to start from a state that is being rebuilt, or was when its flow stopped.

        :arg keys: Of the flow.
        :raises StateLostError: If it is so.
        """
        if self.renewing:
            raise StateLostError(
                "Redis was emptied while the flow ran, and its state is not whole again",
                f"if the flow runs, leave it alone; if it has ended: {way_out(keys)}",
            )

    def to_fields(self) -> dict[str, str]:
        """Give the hash fields that Redis holds, without incarnation, generation and time."""
        steps = {name: [*astuple(entry)] for name, entry in self.steps.items()}
        return {
            "partitions": str(self.partitions),
            "resume_epoch": str(self.resume_epoch),
            "processes": json.dumps(self.processes),
            "shards": str(self.shards),
            "format": str(self.format),
            "steps": json.dumps(steps),
            "parts": json.dumps({name: list(parts) for name, parts in self.parts.items()}),
            "versions": json.dumps(dict(self.versions)),
            "retention": json.dumps(dict(self.retention)),
            "downtime": str(self.downtime),
            "allowance": str(self.allowance),
            "renewing": "1" if self.renewing else "",
        }

    @classmethod
    def from_fields(cls, keys: FlowKeys, found: Mapping[bytes, bytes]) -> Manifest | None:
        """Read the hash that Redis holds.

        :arg keys: Of the flow.
        :arg found: As HGETALL gives it.
        :returns: The manifest, or ``None`` where there is none.
        :raises StateLostError: If a field is missing or can't be read.
        """
        if not found:
            return None
        field = _FieldReader(keys, found)
        incarnation = field("incarnation", _text)
        # A newer format may have changed the rest: its number must be readable all the same.
        if (written := field("format", _number)) != FORMAT:
            return cls(incarnation=incarnation, format=written)
        token = field("generation", Token.parse)
        return cls(
            incarnation=incarnation,
            generation=token.generation,
            start=token.start,
            partitions=field("partitions", partial(_number, most=_MOST_PARTITIONS)),
            resume_epoch=field("resume_epoch", _number),
            processes=field("processes", lambda text: _texts(json.loads(text))),
            shards=field("shards", partial(_number, most=MOST_SHARDS, least=1)),
            steps=field("steps", _steps),
            parts=field("parts", lambda text: _table(text, _texts)),
            versions=field("versions", lambda text: dict(json.loads(text))),
            retention=field("retention", lambda text: _table(text, lambda n: _number(str(n)))),
            # Any whole number: only its difference to Redis's clock counts.
            downtime=field("downtime", partial(_number, least=-(2**63))),
            allowance=field("allowance", _number),
            renewing=bool(field("renewing", _text)),
            time=field("time", _number),
        )


class _FieldReader:
    """Reads fields of a manifest; what can't be read is named."""

    def __init__(self, keys: FlowKeys, found: Mapping[bytes, bytes]) -> None:
        self._keys = keys
        self._fields = Fields(keys, keys.manifest, found)

    def __call__(self, name: str, parse: Callable[[str], _Value]) -> _Value:
        value = self._fields.raw(name)
        try:
            return parse(value.decode())
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            expected = "what a start writes"
            raise damaged(self._keys, self._keys.manifest, name, value, expected) from error


def read_manifest(client: redis.Redis, keys: FlowKeys) -> Manifest | None:
    """Read the manifest of a flow, ``None`` where there is none."""
    fields = cast("dict[bytes, bytes]", client.hgetall(keys.manifest))
    return Manifest.from_fields(keys, fields)


def note_pickled(store: FencedStore, steps: Iterable[str]) -> bool:
    """Note in the manifest that the flow has pickled state of steps.

    :arg store: The flow in Redis.
    :arg steps: Short names of the steps.
    :returns: False where the manifest is missing, or another start's.
    """
    key, names = store.keys.manifest, sorted(steps)
    (noted,) = execute_confirmed(
        store.client,
        lambda pipe: store.scripts.note_pickled(
            key, store.incarnation, store.generation, names, pipe
        ),
    )
    return bool(noted)


def read_pickled(client: redis.Redis, keys: FlowKeys) -> list[str]:
    """Read the short names of the steps of which the flow has ever pickled state.

    They are fields of their own, which a manifest leaves as they are: what a replicator of the
    generation before notes until it is fenced is there, whenever the manifest was read.
    """
    fields = cast("list[bytes]", client.hkeys(keys.manifest))
    return [field[len(_PICKLED) :].decode() for field in fields if field.startswith(_PICKLED)]


def _number(text: str, most: int = 2**63, *, least: int = 0) -> int:
    # Cells and partitions are counted off by some: a damaged number must not take the memory.
    if not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ValueError(f"{text[:80]!r} is no whole number")
    number = int(text)
    if not least <= number <= most:
        raise ValueError(f"{number} is not from {least} to {most}")
    return number


def _steps(text: str) -> dict[str, StepEntry]:
    return _table(text, lambda entry: StepEntry(*_texts(entry)))


def _table(text: str, parse: Callable[[object], _Value]) -> dict[str, _Value]:
    return {_text(name): parse(entry) for name, entry in json.loads(text).items()}


def _text(value: str) -> str:
    value.encode()  # a lone surrogate can't be part of a key
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"a {type(values).__name__} and no list")
    return tuple(_text(value) for value in values)
