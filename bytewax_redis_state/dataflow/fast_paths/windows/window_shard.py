"""Fast shards of windows over the event clock: one object per key.

``fold_window`` and what stands on it (``count_window``, ``reduce_window``, ``collect_window``,
``max_window``, ``min_window``). Invariant: per key, the user's functions get the calls, and come
out the events, that there would be with Bytewax's own logics; a key is touched when a value comes
for it, or when its watermark gets to where something happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bytewax.dataflow import Operator
from bytewax.operators import _get_system_utc

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath
from bytewax_redis_state.dataflow.fast_paths.windows.fixed_window_aggregator import (
    FixedWindowAggregator,
)
from bytewax_redis_state.dataflow.fast_paths.windows.key_windows import KeyWindows
from bytewax_redis_state.dataflow.fast_paths.windows.session_window_aggregator import (
    SessionWindowAggregator,
)
from bytewax_redis_state.dataflow.fast_paths.windows.window_aggregator import WindowAggregator
from bytewax_redis_state.dataflow.fast_paths.windows.window_config import (
    FixedWindowConfig,
    SessionWindowConfig,
    WindowConfig,
    window_config_of,
)
from bytewax_redis_state.dataflow.fast_paths.windows.window_timers import WindowTimers
from bytewax_redis_state.dataflow.shards.deadlines import Lifetime
from bytewax_redis_state.dataflow.shards.routing import Groups, merged
from bytewax_redis_state.dataflow.shards.shard import NOTHING, Items, Shard
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests

__all__ = ["WindowShard", "recognise_window"]


class WindowShard(Shard):
    """Run the windows of one shard's keys.

    On resume each key's windows are as of the last committed epoch; its watermark has gone on with
    the system's time. At the end of input all windows close.

    :arg step_id: Of the user's core step; errors name it.
    :arg rules: Of the step.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg requests: Ask for full snapshots where Redis came back empty; ``None`` for never.
    """

    _held: dict[str, KeyWindows]

    def __init__(
        self,
        step_id: str,
        config: WindowConfig,
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        requests: SnapshotRequests | None = None,
    ) -> None:
        super().__init__(step_id, codec, lifetime, requests)
        self._config = config
        self._fold = _aggregator_of(config)
        self._wake_ups = WindowTimers(config)
        self._reads_system = config.now is _get_system_utc

    def load(self, states: Mapping[str, bytes]) -> None:
        """Decode restored keys, and find out when they are to be notified.

        :raises DecodeError: If a state can't be decoded.
        :raises BytewaxRuntimeError: If the user's builder or clock fails.
        """
        for key, snapshot in self._codec.decode_all(states):
            try:
                self._held[key] = self._fold.resume(snapshot)
            except Exception as error:
                raise self.failure("builder", key) from error
        self._wake_ups.moved.update(states)

    def on_batch(self, values: list[Groups]) -> tuple[Iterable[Items], bool]:
        """Put each key's values into their windows, and close what its watermark has reached.

        :arg values: What each batch from upstream holds for this shard.
        :returns: One list of items, or nothing; a shard is never discarded.
        :raises BytewaxRuntimeError: If a function fails; names the user's step and the key.
        """
        groups = values[0] if len(values) == 1 else merged(values)
        self.expire_passed(groups)
        items: Items = []
        all_held, read, take = self._held, self._config.now, self._fold.take
        discards = self._fold.discards
        # Bytewax reads the clock for each key. The system's may as well stand still for a batch.
        now = read() if self._reads_system else None
        key, doing = "", "StatefulBatchLogic.on_batch"
        try:
            for key, batch in groups.items():
                held = all_held.get(key)
                if held is None:
                    doing = "builder"
                    held = all_held[key] = self._fold.begin(now or read())
                    doing = "StatefulBatchLogic.on_batch"
                items += take(key, held, batch, now or read())
                if discards and not (held.states or held.queue):
                    self.discard(key)
        except Exception as error:
            raise self.failure(doing, key) from error
        self._dirty.update(groups)
        self._wake_ups.moved.update(groups)
        return ((items,) if items else NOTHING), False

    def notified(self, now: datetime) -> Items:
        """Close windows whose time has come."""
        items: Items = []
        for key in self._wake_ups.due(now, self._held):
            self._advance("on_notify", key, items)
            self._wake_ups.moved.add(key)
        return items

    def ended(self) -> Items:
        """Close all windows."""
        items: Items = []
        for key in sorted(self._held):
            self._advance("on_eof", key, items)
        return items

    def _advance(self, method: str, key: str, items: Items) -> None:
        held = self._held[key]
        try:
            if method == "on_eof":
                events, changed = self._fold.end(key, held)
            else:
                events, changed = self._fold.notify(key, held)
        except Exception as error:
            raise self.failure(f"StatefulBatchLogic.{method}", key) from error
        items += events
        held.fruitless = 0 if changed else held.fruitless + 1
        if self._fold.discards and not (held.states or held.queue):
            self.discard(key)
            changed = True
        if changed:
            self._dirty.add(key)

    def next_time(self) -> datetime | None:
        """Ask for the times of the keys that have moved."""
        try:
            return self._wake_ups.next(self._held)
        except Exception as error:
            raise self.failure("StatefulBatchLogic.notify_at", self._wake_ups.key) from error

    def state_of(self, held: KeyWindows) -> Any:
        """Make Bytewax's snapshot."""
        return self._fold.snapshot(held)

    def owes(self, key: str) -> bool:
        """Tell whether a window is open or a value waits."""
        held = self._held[key]
        return bool(held.states or held.queue)

    def forget(self, key: str) -> None:
        """Drop a key's windows and its notification."""
        self._held.pop(key, None)
        self._wake_ups.drop(key)


def _aggregator_of(config: WindowConfig) -> WindowAggregator[Any]:
    if isinstance(config, SessionWindowConfig):
        return SessionWindowAggregator(config)
    assert isinstance(config, FixedWindowConfig)
    return FixedWindowAggregator(config)


def recognise_window(path: Sequence[Operator]) -> FastPath | None:
    """Find the windows around a core step that can be run so."""
    config = window_config_of(path)
    return None if config is None else FastPath(WindowShard, config)
