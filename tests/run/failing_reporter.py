"""Run ``flows.flow`` told by a reporter that fails: URL SCRATCH [PROCESS ADDRESSES]."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import FencedError
from bytewax_redis_state.recovery.redis_recovery import RedisRecovery
from bytewax_redis_state.recovery.reporter import LogReporter
from bytewax_redis_state.recovery.stopping import EXIT_FAILED
from tests.run.flows import get_flow


class FailingReporter(LogReporter):
    def failed(self, error):
        raise RuntimeError("the reporter's own mistake")


def main(url, scratch, process=None, addresses=None):
    recovery = RedisRecovery(
        RedisConfig(url=url), reporter=FailingReporter(), scratch=Path(scratch)
    )
    try:
        recovery.run(
            get_flow(),
            epoch_interval=timedelta(seconds=0.1),
            process_id=None if process is None else int(process),
            addresses=None if addresses is None else addresses.split(";"),
        )
    except FencedError:  # of the one whose engine ended with the other's
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main(*sys.argv[1:])
