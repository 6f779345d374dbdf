"""Fast shards of windows over the event clock: one object per key.

They run ``fold_window``, and ``count_window``, ``reduce_window``, ``collect_window``,
``max_window`` and ``min_window``, which are built on it.

Invariant: per key, the calls of the user's functions and the events are those of Bytewax's own
logics. A key is touched only when it gets a value, or when its watermark lets a window close or a
waiting value into its windows.
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

    On resume each key's windows are as of the last committed epoch; its watermark has moved on with
    the system's time. At the end of input all windows close.

    :arg step_id: Of the user's core step; errors name it.
    :arg config: Of the step.
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
        self._aggregator = _aggregator_of(config)
        self._timers = WindowTimers(config)
        self._reads_system = config.now is _get_system_utc

    def load(self, states: Mapping[str, bytes]) -> None:
        """Decode restored keys, and have their timers set.

        :raises DecodeError: If a state can't be decoded.
        :raises BytewaxRuntimeError: If the user's builder or clock fails.
        """
        for key, snapshot in self._codec.decode_all(states):
            try:
                self._held[key] = self._aggregator.resume(snapshot)
            except Exception as error:
                raise self.failure("builder", key) from error
        self._timers.moved.update(states)

    def on_batch(self, values: list[Groups]) -> tuple[Iterable[Items], bool]:
        """Put each key's values into windows, and close windows that its watermark has reached.

        :arg values: This shard's part of each batch from upstream.
        :returns: One list of items, or nothing; a shard is never discarded.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """
        groups = values[0] if len(values) == 1 else merged(values)
        self.expire_passed(groups)
        items: Items = []
        all_held, read, add = self._held, self._config.now, self._aggregator.add
        discards = self._aggregator.discards
        # Bytewax reads the clock for each key. Within a batch one reading of the system's clock is
        # as good: nobody can tell. A clock of the user's is read for each key, as in Bytewax.
        now = read() if self._reads_system else None
        key, doing = "", "StatefulBatchLogic.on_batch"
        try:
            for key, batch in groups.items():
                held = all_held.get(key)
                if held is None:
                    doing = "builder"
                    held = all_held[key] = self._aggregator.begin(now or read())
                    doing = "StatefulBatchLogic.on_batch"
                items += add(key, held, batch, now or read())
                if discards and not (held.states or held.queue):
                    self.discard(key)
        except Exception as error:
            raise self.failure(doing, key) from error
        self._dirty.update(groups)
        self._timers.moved.update(groups)
        return ((items,) if items else NOTHING), False

    def notified(self, now: datetime) -> Items:
        """Close windows whose time has come."""
        items: Items = []
        for key in self._timers.due(now, self._held):
            self._advance("on_notify", key, items)
            self._timers.moved.add(key)
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
                events, changed = self._aggregator.end(key, held)
            else:
                events, changed = self._aggregator.notify(key, held)
        except Exception as error:
            raise self.failure(f"StatefulBatchLogic.{method}", key) from error
        items += events
        held.fruitless = 0 if changed else held.fruitless + 1
        if self._aggregator.discards and not (held.states or held.queue):
            self.discard(key)
            changed = True
        if changed:
            self._dirty.add(key)

    def next_time(self) -> datetime | None:
        """Tell when a key has to be notified."""
        try:
            return self._timers.next(self._held)
        except Exception as error:
            raise self.failure("StatefulBatchLogic.notify_at", self._timers.key) from error

    def state_of(self, held: KeyWindows) -> Any:
        """Make Bytewax's snapshot, or a compact state that is read as it."""
        return self._aggregator.snapshot(held)

    def owes(self, key: str) -> bool:
        """Tell whether a window is open or a value waits."""
        held = self._held[key]
        return bool(held.states or held.queue)

    def forget(self, key: str) -> None:
        """Drop a key's windows and its notification."""
        self._held.pop(key, None)
        self._timers.drop(key)


def _aggregator_of(config: WindowConfig) -> WindowAggregator[Any]:
    if isinstance(config, SessionWindowConfig):
        return SessionWindowAggregator(config)
    assert isinstance(config, FixedWindowConfig)
    return FixedWindowAggregator(config)


def recognise_window(path: Sequence[Operator]) -> FastPath | None:
    """Find the configuration of the windows around a core step."""
    config = window_config_of(path)
    return None if config is None else FastPath(WindowShard, config)
