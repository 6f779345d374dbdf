"""Metrics for Prometheus, in the registry that Bytewax's ``/metrics`` shows, too."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bytewax_redis_state.metrics.table import LABELS, TABLE
from bytewax_redis_state.recovery.flow_status import flow_statuses

__all__ = ["FlowCollector", "expose"]


class FlowCollector(Collector):
    """Collects the table of metrics for all flows that run in this process."""

    def describe(self) -> list[Metric]:
        """Name the metrics; needs no running flow."""
        return [
            _family(metric.name, metric.description, counts=metric.is_counter) for metric in TABLE
        ]

    def collect(self) -> Iterator[Metric]:
        """Read each metric of each running flow."""
        found = flow_statuses()
        for metric in TABLE:
            family = _family(metric.name, metric.description, counts=metric.is_counter)
            for one in found:
                family.add_metric((one.flow, str(one.process)), float(metric.read(one)))
            yield family


def _family(name: str, text: str, *, counts: bool) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if counts else GaugeMetricFamily
    return kind(name, text, labels=LABELS)


_lock = Lock()
_exposed: set[CollectorRegistry] = set()


def expose(registry: CollectorRegistry = REGISTRY) -> None:
    """Show the metrics of this process's flows in a registry; a second call changes nothing.

    ``python -m bytewax_redis_state.run`` does so by itself. With ``BYTEWAX_DATAFLOW_API_ENABLED``
    Bytewax serves its default registry at port 3030 under ``/metrics``.

    :arg registry: The registry; by default the one that Bytewax shows.
    """
    with _lock:
        if registry not in _exposed:
            registry.register(FlowCollector())
            _exposed.add(registry)
