"""A thread whose death is seen: whatever ended it, its owner learns of it."""

from __future__ import annotations

import threading

import pytest

from bytewax_redis_state.errors import FencedError, ReplicatorError
from bytewax_redis_state.recovery import watched_thread as module
from bytewax_redis_state.recovery.watched_thread import WatchedThread


class Unforeseen(BaseException):
    pass


def raises(error: BaseException):
    def work() -> None:
        raise error

    return work


def ended(work, on_failure=None) -> WatchedThread:
    thread = WatchedThread("sample", work, on_failure)
    thread.start()
    while thread.is_alive:
        threading.Event().wait(0.001)
    return thread


def test_an_error_of_ours_reaches_the_owner_as_it_is():
    told: list = []
    error = FencedError("taken over")
    ended(raises(error), told.append)
    assert told == [error]


@pytest.mark.parametrize("error", [KeyError("k"), Unforeseen("k"), SystemExit(3)])
def test_whatever_else_ends_it_reaches_the_owner_as_one_of_ours(error):
    told: list = []
    thread = ended(raises(error), told.append)
    assert isinstance(told[0], ReplicatorError)
    assert "the thread 'sample' failed: " + type(error).__name__ in str(told[0])
    assert told[0].__cause__ is error
    with pytest.raises(type(error)):
        thread.require_sound()


def test_one_that_was_asked_to_stop_is_sound():
    thread = WatchedThread("sample", lambda: thread.wait(60))
    thread.start()
    assert thread.is_alive
    thread.stop()
    assert not thread.is_alive
    thread.require_sound()


def test_one_that_never_started_can_be_stopped():
    WatchedThread("sample", lambda: None).stop()


def test_it_may_ask_itself_to_stop():
    """As a lease's thread does that finds another owner."""
    thread = WatchedThread("sample", lambda: thread.stop())
    thread.start()
    thread.stop()
    thread.require_sound()


def test_a_start_that_fails_for_good_says_which_thread_it_was(monkeypatch):
    # The system's refusal can't be provoked here: limits don't bind root.
    def refuse(_bootstrap, _args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_START_SECONDS", 0.0)
    monkeypatch.setattr(threading, "_start_new_thread", refuse)
    with pytest.raises(ReplicatorError, match="the thread 'sample' can't be started: can't"):
        WatchedThread("sample", lambda: None).start()
