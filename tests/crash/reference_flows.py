"""Flows whose result is known without Bytewax, and the comparison of a job's result with it."""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from .processes import HERE

EXAMPLES = HERE.parents[1] / "examples" / "dataflows"

State = Mapping[str, Mapping[str, Any]]
"""Short step name to state key to state."""


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"crash_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ReferenceFlow(Protocol):
    """A flow whose result is known."""

    path: Path
    flow_id: str
    sources: tuple[str, ...]
    events: int

    def environ(self, out: Path, pause: float, *, quick: bool = False) -> dict[str, str]:
        """Give the settings of a run; a quick one reads ten batches at once."""

    def differences(self, state: State, out: Path) -> list[str]:
        """Compare state and output with those of an uninterrupted run."""


def _compared(what: str, found: Any, right: Any) -> list[str]:
    if found == right:
        return []
    wrong = [
        f"{key!r}: {found.get(key)!r} instead of {right.get(key)!r}"
        for key in sorted({*found, *right}, key=str)
        if found.get(key) != right.get(key)
    ]
    return [f"{what}: {len(wrong)} wrong of {len(right)}: {'; '.join(wrong[:5])}"]


def _open_visits(state: State) -> dict[str, Any]:
    # Bytewax never drops an account whose last visit has ended; what it keeps is empty.
    visits = state.get("visit", {}).items()
    return {account: visit.logic_states for account, visit in visits if visit.logic_states}


class Clicks:
    """The example with windows and running totals."""

    path = EXAMPLES / "clicks_per_minute.py"
    flow_id = "clicks_per_minute"
    sources = ("clicks",)

    def __init__(self, events: int = 40_000) -> None:
        self.events = events
        self._settings = {
            "CLICKS_EVENTS": str(events),
            "CLICKS_RATE": "40",
        }

    def environ(self, out: Path, pause: float, *, quick: bool = False) -> dict[str, str]:
        run = {"CLICKS_OUT": str(out), "CLICKS_PAUSE": str(pause)}
        return {**self._settings, **run, "CLICKS_BATCH": "1000" if quick else "100"}

    def differences(self, state: State, out: Path) -> list[str]:
        oracle = load_module(HERE.parent / "examples" / "oracle.py")
        try:
            closed = oracle.read_windows(out)
        except AssertionError as twice:
            return [f"a window was closed with two counts: {twice}"]
        right_totals = oracle.click_totals(self._settings)
        return [
            *_compared("totals", dict(state.get("total", {})), right_totals),
            *_compared("open windows", dict(state.get("per_minute", {})), {}),
            *_compared("closed windows", closed, oracle.click_windows(self._settings)),
        ]


class Ledger:
    """The flow with sums, a join, sessions and files that hold each line once."""

    path = HERE / "flows" / "ledger.py"
    flow_id = "ledger"
    sources = ("entries", "payments")

    def __init__(self, events: int = 6000) -> None:
        self.events = events

    def environ(self, out: Path, pause: float, *, quick: bool = False) -> dict[str, str]:
        return {
            "LEDGER_EVENTS": str(self.events),
            "LEDGER_BATCH": "200" if quick else "20",
            "LEDGER_OUT": str(out),
            "LEDGER_PAUSE": str(pause),
        }

    def differences(self, state: State, out: Path) -> list[str]:
        lines = [line for path in out.glob("*.txt") for line in path.read_text().splitlines()]
        sizes = {path.stem: path.stat().st_size for path in out.glob("*.txt")}
        right = Counter(self._lines())
        return [
            *_compared("lines", Counter(lines), right),
            *_compared("balances", dict(state.get("balance", {})), self._balances()),
            *_compared("orders without payment", dict(state.get("paid", {})), {}),
            *_compared("open visits", _open_visits(state), {}),
            *_compared("lengths", dict(state.get("out", {})), sizes),
        ]

    def _flow(self) -> ModuleType:
        flow = load_module(self.path)
        flow.EVENTS = self.events
        return flow

    def _balances(self) -> dict[str, int]:
        flow = self._flow()
        balances: dict[str, int] = defaultdict(int)
        for account, (_, _, cents) in map(flow.entry, range(self.events)):
            balances[account] += cents
        return dict(balances)

    def _lines(self) -> list[str]:
        flow = self._flow()
        lines: list[str] = []
        devices = dict(flow.payment(i) for i in range(self.events))
        balances: dict[str, int] = defaultdict(int)
        by_account: dict[str, list[tuple[Any, int]]] = defaultdict(list)
        for account, (i, at, cents) in map(flow.entry, range(self.events)):
            balances[account] += cents
            lines.append(flow.balance_line(account, i, balances[account]))
            lines.append(flow.paid_line(f"order-{i}", cents, devices[f"order-{i}"]))
            by_account[account].append((at, cents))
        for account, entries in by_account.items():
            visits: list[list[tuple[Any, int]]] = []
            for at, cents in sorted(entries):
                if not visits or at - visits[-1][-1][0] > flow.GAP:
                    visits.append([])
                visits[-1].append((at, cents))
            for visit in visits:
                times, cents_of = [at for at, _ in visit], [cents for _, cents in visit]
                summary = (times[0], times[-1], len(visit), sum(cents_of))
                lines.append(flow.visit_line(account, summary))
        return lines
