"""The names at the top of the package: all of them, loaded on first use only."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import bytewax_redis_state as package
from bytewax_redis_state.backend import Lock
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import Secrets
from bytewax_redis_state.errors import StateError

NAMES = {
    "Codec",
    "Lock",
    "MemoryStateBackend",
    "RedisConfig",
    "RedisConfigBuilder",
    "RedisRecovery",
    "RedisStateBackend",
    "RedisStats",
    "Secrets",
    "StateBackend",
    "StateError",
    "retain",
    "shard_stateful_steps",
}


def test_the_list_of_public_names_is_complete():
    assert set(package.__all__) == NAMES
    assert set(dir(package)) == NAMES | {"__version__"}


def test_a_public_name_is_what_its_room_defines():
    assert package.Codec is Codec
    assert package.Lock is Lock
    assert package.Secrets is Secrets
    assert package.StateError is StateError


def test_the_version_is_that_of_the_distribution():
    assert package.__version__ == version("bytewax-redis-state")


def test_importing_the_package_loads_none_of_its_rooms():
    code = (
        "import sys, bytewax_redis_state as package; package.__version__; dir(package)\n"
        "loaded = [m for m in sys.modules if m.startswith('bytewax_redis_state.')]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
