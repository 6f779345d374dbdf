"""Metrics for OpenTelemetry: observable instruments, read when the reader asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bytewax_redis_state.metrics.table import TABLE, Metric
from bytewax_redis_state.recovery.flow_status import flow_statuses

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

__all__ = ["observe"]


def observe(meter: Meter) -> None:
    """Create an instrument for each metric, for all flows that run in this process.

    :arg meter: A meter of your provider, as in ``get_meter_provider().get_meter("flows")``; needs
        the extra ``otel``.
    """
    for metric in TABLE:
        make = (
            meter.create_observable_counter if metric.is_counter else meter.create_observable_gauge
        )
        make(metric.name, callbacks=[_reader(metric)], description=metric.description)


def _reader(metric: Metric) -> Callable[[CallbackOptions], Iterator[Observation]]:
    from opentelemetry.metrics import Observation

    def read(options: CallbackOptions) -> Iterator[Observation]:
        for one in flow_statuses():
            labels = {"flow": one.flow, "process": str(one.process)}
            yield Observation(float(metric.read(one)), labels)

    return read
