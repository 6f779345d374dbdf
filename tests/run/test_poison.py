"""A pickle that somebody wrote into Redis: with ``--no-pickle`` it runs nothing, and is named."""

from __future__ import annotations

import os
import pickle

from bytewax_redis_state.codec.envelope import PICKLE, seal
from bytewax_redis_state.keys import shard_of

FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")


class Poison:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def plant(sums, key: str, command: str) -> None:
    place = sums.keys.state("sum", shard_of(key, 64), key)
    assert sums.client.exists(place)
    sums.client.set(place, seal(key, PICKLE, pickle.dumps(Poison(command))))


def test_a_planted_pickle_runs_nothing_without_pickle(run, sums, tmp_path):
    assert run(*FAST, ITEMS="30").returncode == 0
    ran = tmp_path / "ran"
    plant(sums, "k3", f"touch {ran}")
    refused = run(*FAST, "--no-pickle", ITEMS="60")
    assert refused.returncode == 2
    assert "k3" in refused.stderr
    assert "allow_pickle is False" in refused.stderr
    assert not ran.exists()
    # So it would have been, had pickle been allowed: the test would notice.
    run(*FAST, ITEMS="60")
    assert ran.exists()
