"""Interrupts: Ctrl-C and SIGTERM of a run, remembered until the run heeds them.

An interrupt is an exception in whatever the main thread does just then, and some code lets no
exception out: a bare ``except`` around a flow's optional import, a weak reference's callback, of
which each import has one. Invariant: a run that was interrupted does not go on.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

__all__ = ["Interrupts"]

_AGAIN_SECONDS = 5.0  # for what was interrupted to end by itself


class Interrupts:
    """Note signals on their way to the handlers that are there, as a context manager.

    Does nothing outside of the main thread, where no handler can be set, and for a signal without
    a handler of Python's.

    :arg left: Set as soon as the run heeds an interrupt.
    """

    def __init__(self, left: threading.Event | None = None) -> None:
        self._left = left or threading.Event()
        self._before: dict[int, Any] = {}
        self._heard: tuple[int, float] | None = None
        self._is_reminder = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        is_reminder, self._is_reminder = self._is_reminder, False
        if is_reminder and self._left.is_set():
            return  # heeded meanwhile, and not to be taken for a second Ctrl-C
        self._heard = number, time.monotonic()
        self._before[number](number, frame)

    def require_none(self) -> None:
        """Raise what was heard so far.

        :raises KeyboardInterrupt: If there was an interrupt.
        """
        if self._heard is not None:
            raise KeyboardInterrupt

    def remind(self) -> None:
        """Interrupt the main thread once more if it goes on in spite of it; from any thread."""
        if self._heard is None or self._left.is_set():
            return
        number, at = self._heard
        if time.monotonic() > at + _AGAIN_SECONDS:
            self._heard = number, time.monotonic()
            self._is_reminder = True
            signal.pthread_kill(threading.main_thread().ident or 0, number)
