"""Open windows go on where they were left: with other windows, and where the clock is behind."""

from __future__ import annotations

import os
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bytewax_redis_state import RedisRecovery

from . import gauges
from .conftest import Sums, finished

FLOW = Path(gauges.__file__)
OPTIONS = ("-s", "0", "--checkpoint-interval", "0.2")
WAYS = {"fast": (), "slow": ("--no-fast-paths",)}
HELD = 9
TWENTY_MINUTES = "1200"


def spans(windower: str, length: timedelta, numbers: range) -> dict[int, list[int]]:
    """Reckon which values are in which window, by looking at each."""
    held: dict[int, list[int]] = defaultdict(list)
    offset = length / 2 if windower == "sliding" else length
    for number in numbers:
        since = gauges.value(number)[0] - gauges.ALIGN_TO
        for window_id in range(since // offset - 3, since // offset + 1):
            if window_id * offset <= since < window_id * offset + length:
                held[window_id].append(number)
    return held


def sessions() -> dict[int, list[int]]:
    """Reckon the sessions: values that lie no further apart than the gap."""
    numbers = range(1, gauges.ITEMS + 1)
    found: list[list[int]] = []
    for number in numbers:
        at = gauges.value(number)[0]
        if not found or at - gauges.value(found[-1][-1])[0] > gauges.GAP:
            found.append([])
        found[-1].append(number)
    assert len(found) > 2
    return dict(enumerate(found))


def lines(*windows: dict[int, list[int]]) -> Counter[str]:
    return Counter(
        gauges.line(key, window_id, numbers)
        for key in gauges.KEYS
        for each in windows
        for window_id, numbers in each.items()
    )


def whole(windower: str) -> Counter[str]:
    if windower == "session":
        return lines(sessions())
    length = timedelta(hours=1)
    return lines(spans(windower, length, range(1, gauges.ITEMS + 1)))


def lines_of(out: str) -> list[str]:
    """Give the lines of windows; Bytewax itself says there that it waits for another process."""
    begins = tuple(f"{key} " for key in gauges.KEYS)
    return [each for each in out.splitlines() if each.startswith(begins)]


def ranks_of(options: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Give the option that tells each process which one it is."""
    if "-a" not in options:
        return [()]
    addresses = options[options.index("-a") + 1].split(";")
    return [("-i", str(rank)) for rank in range(len(addresses))]


def killed_in_midstream(run, client, eventually, *options: str, **env: str) -> Iterator[str]:
    """Kill a run once the first values of each key are folded; gives its lines."""
    held = Sums(client, "gauges")
    env["HOLD"] = str(HELD)
    both = [run.start(*OPTIONS, *options, *rank, file=FLOW, **env) for rank in ranks_of(options)]
    all_held = dict.fromkeys(gauges.KEYS, HELD)

    def is_folded() -> bool:
        assert not any(process.poll() for process in both), [finished(each).stderr for each in both]
        begun = held.manifest and held.manifest.processes
        return bool(begun) and held.state("in") == all_held

    eventually(is_folded)
    for process in both:
        os.killpg(process.pid, signal.SIGKILL)
    for process in both:
        yield from lines_of(process.communicate()[0])


def resumed(run, *options: str, **env: str) -> Iterator[str]:
    """Resume a run, to its end; gives its lines."""
    both = [run.start(*OPTIONS, *options, *rank, file=FLOW, **env) for rank in ranks_of(options)]
    for done in [finished(process) for process in both]:
        assert done.returncode == 0, done.stderr
        assert "resumed at epoch" in done.stderr
        yield from lines_of(done.stdout)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("windower", ["tumbling", "sliding"])
def test_windows_that_got_longer_close_as_they_were_opened(run, client, eventually, windower, way):
    """Their IDs, among the new windows, lie beyond the last year of the calendar."""
    # In the order of arrival no value waits: each is in a window at once.
    env = {"WINDOWER": windower, "ORDERED": ""}
    out = Counter(killed_in_midstream(run, client, eventually, *WAYS[way], LENGTH="10", **env))
    out += Counter(resumed(run, *WAYS[way], LENGTH="3600", **env))
    before = spans(windower, timedelta(seconds=10), range(1, HELD + 1))
    after = spans(windower, timedelta(hours=1), range(HELD + 1, gauges.ITEMS + 1))
    assert out == lines(before, after)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("windower", "workers"),
    [
        ("tumbling", ("-w", "1")),
        ("sliding", ("-w", "1")),
        ("session", ("-w", "1")),
        ("session", ("-w", "2")),
        ("sliding", ("-a",)),
    ],
)
def test_windows_resume_where_the_clock_is_behind(
    run, client, eventually, two_addresses, windower, way, workers
):
    """The clock that they had before is ahead: theirs stands still until this one catches up."""
    options = (*WAYS[way], *workers, *([two_addresses] if workers == ("-a",) else []))
    out = Counter(killed_in_midstream(run, client, eventually, *options, WINDOWER=windower))
    out += Counter(resumed(run, *options, WINDOWER=windower, SKEW=TWENTY_MINUTES))
    assert out == whole(windower)


@pytest.mark.parametrize("fast", [True, False])
def test_windows_resume_from_python_where_the_clock_is_behind(
    run, client, eventually, redis_url, capfd, monkeypatch, fast
):
    out = Counter(killed_in_midstream(run, client, eventually))
    monkeypatch.setattr(gauges, "SKEW", timedelta(minutes=20))
    capfd.readouterr()
    RedisRecovery(redis_url, fast_paths=fast).run(gauges.get_flow())
    out += Counter(capfd.readouterr().out.splitlines())
    assert out == whole("tumbling")
