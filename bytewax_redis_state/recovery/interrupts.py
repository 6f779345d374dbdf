"""Interrupts: Ctrl-C and SIGTERM of a run, remembered until the run stops.

An interrupt is an exception in the code that the main thread runs at that moment, and some code
lets no exception out: a bare ``except`` around a flow's optional import, or the callback of a weak
reference, of which each import has one.

Invariant: a run whose signal handler raised does not go on; a signal handler is called once a
signal, and what it decides stands: one that returns has not interrupted the run.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from typing_extensions import Self

from bytewax_redis_state.recovery.child_processes import in_each_child

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REMIND_SECONDS = 5.0  # for an interrupted run to end by itself


class Interrupts:
    """Stand before the signal handlers that are set, as a context manager of the main thread.

    :arg stopping: Set as soon as the run stops, for whatever reason.
    """

    def __init__(self, stopping: threading.Event | None = None) -> None:
        self._stopping = stopping or threading.Event()
        self._layers: list[tuple[int, Any, Any]] = []  # signal, handler before, handler of ours
        self._raised: BaseException | None = None
        self._raised_at = 0.0
        self._is_ours = False
        self._end_process: Callable[[], NoReturn] | None = None
        self._leave_to_children: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        self._leave_to_children = in_each_child(self._restore)
        for number in _SIGNALS:
            if callable(signal.getsignal(number)):
                self._handle(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave_to_children()
        self._restore()

    def _restore(self) -> None:
        for number, before, ours in reversed(self._layers):
            # A flow may have set a handler of its own meanwhile, such as its clean-up on SIGTERM:
            # that one stays.
            if signal.getsignal(number) is ours:
                signal.signal(number, before)

    def _handle(self, number: int) -> None:
        before = signal.getsignal(number)

        # A function for each layer, because a handler of the flow's that was set in between may
        # call the one that it replaced.
        def on_signal(number: int, frame: FrameType | None) -> None:
            self._on_signal(before, number, frame)

        signal.signal(number, on_signal)
        self._layers.append((number, before, on_signal))

    def _handled(self) -> list[int]:
        return [number for number, _, ours in self._layers if signal.getsignal(number) is ours]

    def end_process_by(self, end_process: Callable[[], NoReturn]) -> None:
        """End the process in the signal handler from now on, instead of raising.

        SIGINT and SIGTERM are handled even where no handler was set. A handler of the flow's still
        comes first, and where it returns, the process goes on.

        :arg end_process: Called in the main thread for each interrupt.
        """
        self._end_process = end_process
        for number in _SIGNALS:
            if number not in self._handled():
                self._handle(number)

    def _on_signal(self, before: Any, number: int, frame: FrameType | None) -> None:
        is_ours, self._is_ours = self._is_ours, False
        if is_ours and self._stopping.is_set():
            return  # the run stops already, and this must not count as a second Ctrl-C
        raised = KeyboardInterrupt() if is_ours else _raised_by(before, number, frame)
        if raised is None:
            return
        self._raised, self._raised_at = raised, time.monotonic()
        if self._end_process is not None:
            self._end_process()
        raise raised

    def require_none(self) -> None:
        """Raise again what a signal handler has raised so far.

        :raises BaseException: Mostly a KeyboardInterrupt, of the first interrupt that was lost.
        """
        if self._raised is not None:
            raise self._raised

    def interrupt(self) -> None:
        """Interrupt the main thread, without the flow's handlers; from any thread."""
        self._is_ours = True
        number = next(iter(self._handled()), signal.SIGINT)
        # A real signal, because it breaks a sleep, which interrupt_main() would not.
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    def remind(self) -> None:
        """Interrupt the main thread again where it goes on after an interrupt; from any thread."""
        if self._raised is None or self._stopping.is_set():
            return
        if time.monotonic() > self._raised_at + _REMIND_SECONDS:
            self._raised_at = time.monotonic()
            self.interrupt()


def _raised_by(handler: Any, number: int, frame: FrameType | None) -> BaseException | None:
    """Call a signal handler, and give what it raised."""
    if not callable(handler):
        return KeyboardInterrupt()
    try:
        handler(number, frame)
    except BaseException as error:  # noqa: BLE001 - the caller raises it
        return error
    return None
