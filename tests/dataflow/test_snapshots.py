"""A state that is taken without a copy is the state that the logic's own ``snapshot`` gives."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from bytewax.testing import run_main

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.dataflow import logics
from bytewax_redis_state.dataflow.snapshots import snapshot_of
from bytewax_redis_state.dataflow.windows import PatientWindow

from .catalog import catalog


def test_every_operator_gives_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[str] = Counter()

    def compared(logic: Any) -> Any:
        own = logic._logic if isinstance(logic, PatientWindow) else logic
        state, copy = snapshot_of(logic), own.snapshot()
        assert state == copy
        assert type(state) is type(copy)
        taken[type(own).__name__] += 1
        return state

    monkeypatch.setattr(logics, "snapshot_of", compared)
    run_main(shard_stateful_steps(catalog([])), epoch_interval=timedelta(0))
    assert {"_WindowLogic", "_StatefulLogic"} <= taken.keys()
    assert min(taken["_WindowLogic"], taken["_StatefulLogic"]) > 100
