"""The keywords of RedisRecovery, as a type checker sees them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.recovery.redis_recovery import RecoveryKeywords

SNIPPET = """
from datetime import timedelta
from bytewax_redis_state import RedisRecovery

RedisRecovery("redis://localhost", checkpoint_interval=timedelta(seconds=1), compression="zstd")
RedisRecovery("redis://localhost", checkpoint_intervall=timedelta(seconds=1))
RedisRecovery("redis://localhost", shards="64")
"""


def test_the_keywords_are_the_fields_of_the_settings():
    hints = get_type_hints(RecoverySettings)
    assert get_type_hints(RecoveryKeywords) == {
        field.name: hints[field.name] for field in fields(RecoverySettings)
    }


def test_a_type_checker_finds_a_wrong_keyword(tmp_path: Path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", snippet],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    wrong = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(wrong) == 2, done.stdout
    assert 'snippet.py:6: error: Unexpected keyword argument "checkpoint_intervall"' in wrong[0]
    assert 'snippet.py:7: error: Argument "shards"' in wrong[1]
