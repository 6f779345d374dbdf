"""How a run ends: which error comes out, and that nothing keeps the end from coming."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.errors import ConfigError, EncodeError, StateError
from bytewax_redis_state.recovery import interrupts as interrupts_module
from bytewax_redis_state.recovery.reporter import LogReporter

from .test_session import Ticks, When, recovery, run, sums

__all__ = ["recovery"]  # a fixture


def chain(error: BaseException) -> Iterator[BaseException]:
    """Walk causes and contexts as code that renders a traceback does; fails where they go round."""
    seen: list[BaseException] = []
    rest = [error]
    while rest:
        one = rest.pop()
        assert all(one is not other for other in seen), f"a circle of causes at {one!r}"
        seen.append(one)
        yield one
        following = one.__cause__ or one.__context__
        rest += [following] if following is not None else []


# --- which error comes out -----------------------------------------------------------------------


def test_after_ctrl_c_no_exception_is_its_own_cause(recovery):
    act = When(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(20)))
    with pytest.raises(KeyboardInterrupt) as caught:
        run(recovery, sums(Ticks(act), []))
    assert list(chain(caught.value))


class _Unwritable(Ticks):
    """Has a state that can't be written."""

    def build_part(self, step_id, for_part, resume_state):
        part = super().build_part(step_id, for_part, resume_state)
        part.snapshot = lambda: lambda: None
        return part


@pytest.mark.parametrize("where", ["sum", "in"])
def test_after_a_state_that_can_not_be_written_no_exception_is_its_own_cause(recovery, where):
    flow = Dataflow("sums")
    source = TestingSource([1]) if where == "sum" else _Unwritable(lambda n: n > 20)
    items = op.key_on("key", op.input("in", flow, source), lambda _n: "k")
    sums = op.stateful_map("sum", items, lambda _held, n: ((lambda: n) if where == "sum" else n, n))
    op.output("out", sums, TestingSink([]))
    with pytest.raises(EncodeError, match="lambda") as caught:
        run(recovery, flow)
    assert next(chain(caught.value)) is caught.value


# --- signal handlers -----------------------------------------------------------------------------


@pytest.fixture
def handler_calls() -> Iterator[list[int]]:
    """A handler of SIGTERM that does not raise."""
    calls: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: calls.append(number))
    yield calls
    signal.signal(signal.SIGTERM, before)


def test_a_handler_that_returns_is_called_once_for_one_signal(recovery, handler_calls, monkeypatch):
    """Its second call means "leave now" to many."""
    monkeypatch.setattr(interrupts_module, "_REMIND_SECONDS", 0.1)
    act = When(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(1)))
    run(recovery, sums(Ticks(act), []))
    assert act.error is None
    assert handler_calls == [signal.SIGTERM]


def test_a_run_is_reminded_of_an_interrupt_without_its_handler(recovery, monkeypatch):
    monkeypatch.setattr(interrupts_module, "_REMIND_SECONDS", 0.2)
    calls = []

    def raise_once(number, _frame):
        calls.append(number)
        raise KeyboardInterrupt

    def swallow_the_first(number: int) -> bool:
        if number == 5:
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
        return False

    before = signal.signal(signal.SIGTERM, raise_once)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(recovery, sums(Ticks(swallow_the_first), []))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == [signal.SIGTERM]


def test_an_error_of_ours_stops_a_run_whose_handler_of_ctrl_c_returns(recovery):
    before = signal.signal(signal.SIGINT, lambda *_: None)
    sessions: list = []
    lost = StateError("lost for good")
    act = When(lambda: sessions[0]._stopping.fail(lost))
    try:
        with pytest.raises(StateError, match="lost for good"):
            run(recovery, sums(Ticks(lambda n: act(n) and False), []), sessions)
    finally:
        signal.signal(signal.SIGINT, before)


# --- nothing keeps the end from coming -----------------------------------------------------------


def test_a_reporter_that_never_returns_does_not_keep_a_run_from_ending(redis_url, tmp_path):
    release = threading.Event()

    class Stuck(LogReporter):
        def warn(self, line):
            warned.set()
            release.wait(60)

    warned = threading.Event()
    recovery = RedisRecovery(redis_url, scratch=tmp_path, reporter=Stuck(), max_lag=1)
    interrupted_at = []

    def interrupt():
        warned.wait(20)
        interrupted_at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)

    act = When(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(recovery, sums(Ticks(act), []))
    finally:
        release.set()
    assert warned.is_set()
    assert time.monotonic() < interrupted_at[0] + 30


# --- runs that could not be stopped, or would keep nothing ---------------------------------------


def test_a_run_in_another_thread_is_refused(recovery, client):
    """It could be stopped only by interrupting the main thread, which is the host's."""
    errors: list[BaseException] = []

    def work():
        try:
            recovery.run(sums(TestingSource(range(3)), []))
        except ConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="the host's")
    thread.start()
    thread.join(60)
    assert 'in the main thread only, and this is the thread "the host\'s"' in str(errors[0])
    assert "in a process of its own" in str(errors[0])
    assert client.dbsize() == 0


@pytest.mark.parametrize("name", ["flow", "recovery_config"])
def test_a_session_without_with_is_refused(recovery, name):
    session = recovery.session(sums(TestingSource(range(3)), []))
    with pytest.raises(ConfigError, match=r"with recovery\.session\(flow\) as session:"):
        getattr(session, name)
    with session:
        assert getattr(session, name) is not None
    with pytest.raises(ConfigError, match=f"session.{name} is read outside"):
        getattr(session, name)
