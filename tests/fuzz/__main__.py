"""Fuzz one target with atheris: ``python -m tests.fuzz TARGET SECONDS``; exit code 0 where it held.

What is found is left in the working directory as ``crash-…``, ``oom-…`` or ``timeout-…``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["bytewax_redis_state", "msgpack"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    name, seconds = sys.argv[1:3]
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = ["-timeout=10", "-rss_limit_mb=256", "-malloc_limit_mb=256", "-max_len=8192"]
    options += [f"-max_total_time={seconds}", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
