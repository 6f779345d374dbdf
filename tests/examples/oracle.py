"""What the example flows must put out, reckoned without Bytewax's operators.

The made-up streams come from the examples themselves (event `i` follows from `i`); windows, sums,
visits and scores are reckoned here, in one pass over a sorted list.
"""

import importlib.util
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

DATAFLOWS = Path(__file__).parents[2] / "examples" / "dataflows"
NAMES = sorted(path.stem for path in DATAFLOWS.glob("*.py"))
PREFIX = {
    "clicks_per_minute": "CLICKS_",
    "rolling_average": "ROLLING_",
    "sessions": "SESSIONS_",
    "fraud_score": "FRAUD_",
}


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def load(name: str, settings: Mapping[str, str]) -> ModuleType:
    """Import an example afresh, as a run with `settings` in its environment sees it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", DATAFLOWS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _environment(settings):
        spec.loader.exec_module(module)
    return module


def click_windows(settings: Mapping[str, str]) -> dict[tuple[str, int], int]:
    """Clicks by page and window id."""
    example = load("clicks_per_minute", settings)
    clicks = (example.click(i) for i in range(example.EVENTS))
    return dict(Counter((page, (at - example.START) // example.MINUTE) for page, at in clicks))


def click_totals(settings: Mapping[str, str]) -> dict[str, int]:
    """Clicks by page: the state of step `total` when the stream is over."""
    example = load("clicks_per_minute", settings)
    return dict(Counter(example.click(i)[0] for i in range(example.EVENTS)))


def read_records(directory: Path) -> list[dict]:
    """Read what a run or several left in `CLICKS_OUT`, without lines cut short by a kill."""
    records = []
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return records


def read_windows(directory: Path) -> dict[tuple[str, int], int]:
    """Closed windows in `CLICKS_OUT`; a window may be there twice, but never with two counts."""
    windows: dict[tuple[str, int], int] = {}
    for record in read_records(directory):
        if "window" in record:
            key = (record["page"], record["window"])
            assert windows.setdefault(key, record["clicks"]) == record["clicks"], key
    return windows


def rolling_average_lines(settings: Mapping[str, str]) -> list[str]:
    example = load("rolling_average", settings)
    readings = defaultdict(list)
    for i in range(example.EVENTS):
        sensor, measured = example.reading(i)
        readings[sensor].append(measured)

    lines = []
    for sensor, measured in readings.items():
        measured.sort()
        last = (measured[-1][0] - example.START) // example.OFFSET
        for window in range(-4, last + 1):
            opens = example.START + window * example.OFFSET
            within = [degrees for at, degrees in measured if opens <= at < opens + example.LENGTH]
            if within:
                lines.append(example.text((sensor, (window, (len(within), sum(within))))))
    return lines


def sessions_lines(settings: Mapping[str, str]) -> list[str]:
    example = load("sessions", settings)
    actions = defaultdict(list)
    for i in range(example.EVENTS):
        user, acted = example.action(i)
        actions[user].append(acted)

    lines = []
    for user, acted in actions.items():
        visits: list[list] = []
        for at, cents in sorted(acted):
            if not visits or at - visits[-1][-1][0] > example.GAP:
                visits.append([])
            visits[-1].append((at, cents))
        for number, visit in enumerate(visits):
            spent = sum(cents for _, cents in visit)
            summary = (visit[0][0], visit[-1][0], len(visit), spent)
            lines.append(example.text((user, (number, summary))))
    return lines


def fraud_score_lines(settings: Mapping[str, str]) -> list[str]:
    example = load("fraud_score", settings)
    paid = defaultdict(list)
    lines = []
    for i in range(example.EVENTS):
        card, (_, cents) = example.payment(i)
        before = paid[card]
        percent = 100 * cents * len(before) // sum(before) if before else 100
        points = percent * example.device_check(i)[1] // 100
        if points >= example.SUSPICIOUS:
            lines.append(example.text((str(i), (card, cents, points))))
        before.append(cents)
    return lines


def clicks_per_minute_lines(settings: Mapping[str, str]) -> list[str]:
    example = load("clicks_per_minute", settings)
    records = [
        example.window_record((page, (window, clicks)))
        for (page, window), clicks in click_windows(settings).items()
    ]
    for page, total in click_totals(settings).items():
        for reached in range(example.MILESTONE, total + 1, example.MILESTONE):
            records.append(example.milestone_record((page, reached)))
    return [example.text(record) for record in records]


def expiring_sessions_lines(settings: Mapping[str, str]) -> list[str]:
    example = load("expiring_sessions", settings)
    return [
        example.text((f"visitor-{number}", (1, example.PAGES)))
        for number in range(example.VISITORS)
    ]


LINES = {
    "clicks_per_minute": clicks_per_minute_lines,
    "rolling_average": rolling_average_lines,
    "sessions": sessions_lines,
    "fraud_score": fraud_score_lines,
    "expiring_sessions": expiring_sessions_lines,
}
