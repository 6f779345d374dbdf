"""Redis is set back to an older copy while the flow is down: the next start says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

import pytest

from bytewax_redis_state.recovery.sightings import Sighting, Sightings
from tests.conftest import wait_until

from .conftest import expected, finished

FAST = ("-s", "0.05", "--checkpoint-interval", "0.2")
SAID = "Redis has gone back: it had committed the flow up to epoch"


def set_back(client, copy: Mapping[bytes, bytes]) -> None:
    client.flushdb()
    for key, value in copy.items():
        client.restore(key, 0, value)


@pytest.mark.parametrize("end", ["ended", "killed"])
def test_an_older_copy_is_noticed_and_named(run, sums, client, dump, end) -> None:
    assert run(*FAST, ITEMS="40").returncode == 0
    copy, older = dump(), sums.progress()
    if end == "ended":
        assert run(*FAST, ITEMS="90", PAUSE="0.01").returncode == 0
    else:
        process = run.start(*FAST, ITEMS="3000", PAUSE="0.01")
        wait_until(lambda: sums.manifest.generation == 2 and sums.progress() > older + 5)
        os.killpg(process.pid, signal.SIGKILL)
        finished(process)
    assert SAID not in run(*FAST, ITEMS="100").stderr
    newer = sums.progress()
    set_back(client, copy)
    done = run(*FAST, ITEMS="100")
    assert done.returncode == 0, done.stderr
    assert f"{SAID} {newer - 1}, and resumes it at epoch {older}; what came since" in done.stderr
    assert sums.state() == expected(100)
    again = run(*FAST, ITEMS="110")
    assert again.returncode == 0, again.stderr
    assert SAID not in again.stderr


def test_the_newest_sighting_of_each_life_is_kept(tmp_path) -> None:
    sightings = Sightings(tmp_path)
    assert sightings.epoch("ab") == 0
    for epoch in (7, 5, 9, 8):
        sightings.note(Sighting("ab", epoch))
    sightings.note(Sighting("cd", 2))
    sightings.note(None)
    assert (sightings.epoch("ab"), sightings.epoch("cd")) == (9, 2)
    sightings.note(Sighting("ab", 3), went_back=True)
    assert sightings.epoch("ab") == 3
    (tmp_path / "bytewax-seen-ab").write_text("no JSON")
    assert sightings.epoch("ab") == 0
    for number in range(120):
        sightings.note(Sighting(f"{number:x}e", 1))
    assert len(list(tmp_path.iterdir())) == 100
