"""The rewrite of an unmodified flow: keyed steps become shards, sources and sinks are wrapped.

The step tree consists of frozen dataclasses. Changed nodes and their ancestors are replaced, the
rest is shared. The engine's Rust side reads only substeps, IDs of steps and streams, and builders,
so every operator built on ``stateful_batch`` works unchanged. Invariant: the given flow stays as it
is, and every stream keeps its ID.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Operator, SinglePort, _CoreOperator
from bytewax.inputs import DynamicSource

from bytewax_redis_state.codec import Codec, StateCodec
from bytewax_redis_state.dataflow.connectors.gate import Gate, GatedSource
from bytewax_redis_state.dataflow.connectors.sink import EncodedSink
from bytewax_redis_state.dataflow.connectors.source import EncodedSource
from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath
from bytewax_redis_state.dataflow.fast_paths.registry import find_fast_path
from bytewax_redis_state.dataflow.shards.deadlines import Lifetime
from bytewax_redis_state.dataflow.shards.flow_clock import wall_clock
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.shards.routing import unroute
from bytewax_redis_state.dataflow.shards.shard_builder import ShardBuilder
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests
from bytewax_redis_state.dataflow.stateless_ends import stateless_ends
from bytewax_redis_state.dataflow.steps import engine_id_of, is_stateless, kind_of, state_steps

__all__ = ["shard_stateful_steps"]

_flat_map_batch: Any = op.flat_map_batch._op_cls  # type: ignore[attr-defined]
_stateful_batch: Any = op.stateful_batch._op_cls  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _ShardedStep(Operator):
    """A keyed step with its shards inside; no core step, so that the engine builds its substeps."""

    up: SinglePort
    down: SinglePort
    ups_names: ClassVar[list[str]] = ["up"]
    dwn_names: ClassVar[list[str]] = ["down"]


@dataclass(frozen=True)
class _EndWatch(Operator):
    """A side branch that ends when its stream ends, and puts out nothing."""

    up: SinglePort
    ups_names: ClassVar[list[str]] = ["up"]
    dwn_names: ClassVar[list[str]] = []


@dataclass(frozen=True)
class _Rewrite:
    """The arguments of one rewrite, which every node needs."""

    flow_id: str
    shards: int
    workers: int
    codec: Codec
    namespace: str
    names: Mapping[str, str]
    ends: Mapping[str, str]
    lifetimes: Mapping[str, Lifetime]
    gate: Gate | None
    requests: SnapshotRequests | None
    handover: Handover | None
    fast_paths: bool

    def substeps(
        self, steps: Iterable[Operator], within: tuple[Operator, ...] = ()
    ) -> list[Operator]:
        return [new for step in steps for new in self.step(step, within)]

    def step(self, step: Operator, within: tuple[Operator, ...]) -> list[Operator]:
        fields: Any = step
        kind = kind_of(step)
        if kind == "keyed":
            return [self.sharded(step, within)]
        if kind == "source":
            source = EncodedSource(fields.source, self.codec_of(step), self.gate)
            return [_replaced(step, source=source)]
        if kind == "sink":
            return [_replaced(step, sink=EncodedSink(fields.sink, self.codec_of(step)))]
        if not isinstance(step, _CoreOperator):
            return [_replaced(step, substeps=self.substeps(step.substeps, (*within, step)))]
        if self.gate is not None and isinstance(getattr(step, "source", None), DynamicSource):
            step = _replaced(step, source=GatedSource(fields.source, self.gate))
        if step.step_id in self.ends:
            return [step, _end_watch(step, self.ends[step.step_id])]
        return [step]

    def codec_of(self, step: Operator) -> StateCodec:
        name = self.names[step.step_id]
        return self.codec.bind(namespace=self.namespace, flow_id=self.flow_id, step=name)

    def sharded(self, step: Any, within: tuple[Operator, ...]) -> _ShardedStep:
        """Replace a keyed step by route, shards and unroute, on the same stream IDs."""
        step_id = step.step_id
        codec, lifetime = self.codec_of(step), self.lifetimes.get(step_id)
        fast = find_fast_path((*within, step)) if self.fast_paths else None
        how = fast or FastPath(ShardLogic, step.builder)
        builder = ShardBuilder(
            step_id, how.logic, codec, lifetime, self.requests, how.kind, self.handover
        )
        mapper = how.router(self.shards, self.workers)
        route = _mapped(f"{step_id}.route", step.up.stream_id, mapper)
        shards = _keyed(engine_id_of(step_id, "keyed"), route.down.stream_id, builder)
        unrouted = _mapped(
            f"{step_id}.unroute", shards.down.stream_id, unroute, step.down.stream_id
        )
        return _ShardedStep(
            step_name=step.step_name,
            step_id=step_id,
            substeps=[route, shards, unrouted],
            up=step.up,
            down=step.down,
        )


def _replaced(step: Any, **changes: Any) -> Operator:
    new: Operator = dataclasses.replace(step, **changes)
    return new


def _ports(step_id: str, up: str, down: str | None) -> dict[str, Any]:
    return {
        "step_name": step_id.rsplit(".", 1)[-1],
        "step_id": step_id,
        "substeps": [],
        "up": SinglePort(f"{step_id}.up", up),
        "down": SinglePort(f"{step_id}.down", down or f"{step_id}.down"),
    }


def _mapped(step_id: str, up: str, mapper: Any, down: str | None = None) -> Any:
    return _flat_map_batch(mapper=mapper, **_ports(step_id, up, down))


def _keyed(step_id: str, up: str, builder: Any) -> Any:
    return _stateful_batch(builder=builder, **_ports(step_id, up, None))


def _swallow(_batch: list[Any]) -> tuple[Any, ...]:
    return ()


def _end_watch(step: Operator, stream_id: str) -> _EndWatch:
    """Add a side branch to a stream: a keyed step that gets no item, but ends with the stream."""
    step_id = f"{step.step_id}.end"
    none = _mapped(f"{step_id}.none", stream_id, _swallow)
    return _EndWatch(
        step_name="end",
        step_id=step_id,
        substeps=[none, _keyed(f"{step_id}.watch", none.down.stream_id, _swallow)],
        up=SinglePort(f"{step_id}.up", stream_id),
    )


def shard_stateful_steps(
    flow: Dataflow,
    *,
    shards: int = 64,
    workers: int = 1,
    codec: Codec | None = None,
    namespace: str = "bytewax",
    names: Mapping[str, str] | None = None,
    retention: Mapping[str, timedelta] | None = None,
    flow_time: Callable[[], int] = wall_clock,
    gate: Gate | None = None,
    snapshot_requests: SnapshotRequests | None = None,
    handover: Handover | None = None,
    fast_paths: bool = True,
) -> Dataflow:
    """Rewrite a flow so that its state goes through shards and comes out encoded.

    Each core ``stateful_batch`` step, however deep, becomes route → shards → unroute; sources and
    sinks with state are wrapped; each stream to a stateless output gets a side branch, so that a
    run with recovery neither ends nor commits before it. Shards are the unit of parallelism. On
    resume a shard's state is restored whole, as of the last committed epoch; items that were put
    out after it are put out again.

    :arg flow: Not changed.
    :arg shards: The number of shards of each keyed step.
    :arg workers: The number of workers in the whole cluster.
    :arg codec: How states become bytes.
    :arg namespace: Of the flow's keys; an encoded state is bound to it.
    :arg names: Full ID of each state-bearing step to its short name; by default as
        :func:`~bytewax_redis_state.dataflow.steps.state_steps` names them.
    :arg retention: Full ID of each keyed step that drops idle keys, to how long it keeps them, as
        :func:`~bytewax_redis_state.dataflow.retention.lifetimes` gives it; by default none.
    :arg flow_time: Gives the flow's time in milliseconds: the server's clock, less all downtime.
    :arg gate: Holds the flow's sources back while state can't be shipped; ``None`` for never.
    :arg snapshot_requests: Ask the shards for full snapshots where Redis came back empty; ``None``
        for never.
    :arg handover: Holds restored states for the shards; ``None`` where nothing was restored.
    :arg fast_paths: Whether operators whose logic is known run without a logic object per key.
    :returns: A new flow; a flow without any state is returned itself.
    """
    if is_stateless(flow):
        return flow
    own_names = {step.step_id: step.name for step in state_steps(flow)}
    rewrite = _Rewrite(
        flow_id=flow.flow_id,
        shards=shards,
        workers=workers,
        codec=Codec() if codec is None else codec,
        namespace=namespace,
        names={**own_names, **(names or {})},
        ends=stateless_ends(flow),
        lifetimes={
            step_id: Lifetime(kept, flow_time) for step_id, kept in (retention or {}).items()
        },
        gate=gate,
        requests=snapshot_requests,
        handover=handover,
        fast_paths=fast_paths,
    )
    return dataclasses.replace(flow, substeps=rewrite.substeps(flow.substeps), _scope=None)  # type: ignore[arg-type]
