"""The process of a replicator: ships outbox rows to Redis, one beside each dataflow process.

It is a process of its own because Bytewax links its own SQLite: two SQLite libraries in one process
share POSIX locks and can corrupt the file. It also leaves the dataflow its GIL, and outlives a
SIGKILL of the dataflow long enough to drain.

It runs this module with a ``ReplicatorConfig`` as one line of JSON on its standard input. A second
line there, the input's end, or the death of the dataflow's process means drain and end. A dataflow
starts the process as soon as it has claimed its lease, because a process
needs as long to come up as a hundred thousand keys need to be read; where the start fails, the
input ends first.

Invariant: however it ends, the status board says so.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

from bytewax_redis_state.errors import ServerUnavailableError, StateError, StateLostError
from bytewax_redis_state.recovery.outbox.outbox import Outbox
from bytewax_redis_state.recovery.replicator.backoff import LEAST_SECONDS, Backoff
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.embedded_watch import EmbeddedWatch
from bytewax_redis_state.recovery.replicator.heartbeat import Heartbeat
from bytewax_redis_state.recovery.replicator.life_file import Life, write_life
from bytewax_redis_state.recovery.replicator.parent_process import ParentProcess
from bytewax_redis_state.recovery.replicator.renewal import renewed
from bytewax_redis_state.recovery.replicator.replicator import Replicator, ending_of
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status, StatusBoard

__all__ = ["main"]

logger = logging.getLogger(__name__)

_SWITCH_SECONDS = 0.0005


def main() -> int:
    """Run a replicator with the config on standard input.

    :returns: 0 when everything was shipped, else 1; the status board says how it ended.
    """
    _prepare()
    parent_process = ParentProcess()
    line = parent_process.read_line()
    if not line:
        return 1  # the start failed before there was anything to ship
    config = ReplicatorConfig.from_json(line.decode())
    # Behind our own places: a module of the dataflow must not stand in for one of ours.
    sys.path += [place for place in config.path if place not in sys.path]
    board = StatusBoard(Path(config.status))
    try:
        parent_process.watch()
        if config.embedded is not None:
            EmbeddedWatch(Path(config.embedded)).start()
        with closing(config.open_outbox()) as outbox:
            state = _run_lives(config, outbox, board, parent_process)
    except StateError as error:
        state, text = ending_of(config, error, parent_process)
        board.write(Status(state=state, text=text))
    return 0 if state is ReplicatorState.DRAINED else 1


def _prepare() -> None:
    # Ctrl-C reaches the whole process group. The dataflow ends first, and its end is the sign to
    # drain. Until here both signals were blocked (see the watchdog).
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    logging.basicConfig(
        level=os.environ.get("BYTEWAX_REDIS_LOG", "WARNING"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # A thread that folds seldom gives the GIL away by itself: at Python's 5 ms, each row that
    # shipping reads would wait as long.
    sys.setswitchinterval(_SWITCH_SECONDS)


def _run_lives(
    config: ReplicatorConfig, outbox: Outbox, board: StatusBoard, parent_process: ParentProcess
) -> ReplicatorState:
    """Run a replicator for each life of the flow: a Redis that was emptied begins a new one."""
    if outbox.renewal is not None:
        config = config.renewed(outbox.renewal)
    while True:
        state = _run_life(config, outbox, board, parent_process)
        if state is not ReplicatorState.EMPTIED:
            return state
        logger.warning("redis emptied: asking the shards for all that they hold")
        new = renewed(config, outbox, lambda: not parent_process.is_gone)
        if new is None:
            raise StateLostError(
                f"Redis was emptied while the flow {config.flow_id!r} ran, and the flow ended "
                "before its renewal had begun",
                "start the flow again",
            )
        config = new


def _run_life(
    config: ReplicatorConfig, outbox: Outbox, board: StatusBoard, parent_process: ParentProcess
) -> ReplicatorState:
    write_life(Path(config.status).parent, Life(config.incarnation, config.partitions))
    before = board.read()
    status = Status(
        state=before.state if before.state is ReplicatorState.AWAY else ReplicatorState.STARTING,
        row=before.row,
        progress=config.resume_epoch,
        snapshot_request=config.snapshot_request,
    )
    heartbeat = Heartbeat(board, config.open_outbox(), status)
    heartbeat.start()
    try:
        # Only a replicator of a running flow waits for Redis. The first one of a start, before
        # which nobody has written to the board, reports at once why the flow can't begin.
        if before.heartbeat:
            replicator = _wait_for_redis(config, outbox, heartbeat, parent_process)
        else:
            replicator = Replicator(config, outbox, heartbeat, parent_process)
    except StateError as error:
        heartbeat.stop()
        if isinstance(error, ServerUnavailableError) and parent_process.is_gone:
            left, _ = outbox.backlog(heartbeat.status.row)
            state, text = ReplicatorState.UNDRAINED, f"{left} rows not shipped: {error}"
        else:
            state, text = ending_of(config, error, parent_process)
        heartbeat.show(state=state, text=text)
        return state
    return replicator.run()


def _wait_for_redis(
    config: ReplicatorConfig,
    outbox: Outbox,
    heartbeat: Heartbeat,
    parent_process: ParentProcess,
) -> Replicator:
    """Make the replicator of a flow that runs already, for which a Redis that is away is no end.

    :raises ServerUnavailableError: If Redis is still away when the drain of a flow that has ended
        has to be over.
    """
    backoff, deadline = Backoff(), float("inf")
    while True:
        if parent_process.is_gone:
            deadline = min(deadline, time.monotonic() + config.drain_timeout)
        try:
            return Replicator(config, outbox, heartbeat, parent_process)
        except ServerUnavailableError as error:
            heartbeat.thread.require_sound()
            if time.monotonic() > deadline:
                raise
            _show_away(heartbeat, error)
            if parent_process.is_gone:
                time.sleep(LEAST_SECONDS)
            else:
                parent_process.wait(backoff.next())


def _show_away(heartbeat: Heartbeat, error: ServerUnavailableError) -> None:
    if heartbeat.status.state is not ReplicatorState.AWAY:
        logger.warning("redis away why=%s", error)
    heartbeat.show(state=ReplicatorState.AWAY, text=str(error))


if __name__ == "__main__":
    ended = main()
    logging.shutdown()
    # Its files are closed. Taking the interpreter down takes ten times as long as the whole drain,
    # and the dataflow's process waits for it.
    os._exit(ended)
