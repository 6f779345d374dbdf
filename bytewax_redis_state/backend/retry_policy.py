"""When a round trip is tried again, how often and after which waits; and the log lines about it.

Invariant: every error that leaves :meth:`RetryPolicy.as_state_error` is one of our own.
"""

from __future__ import annotations

import logging
import random
import time
from datetime import timedelta
from typing import Any

from redis.exceptions import NoScriptError
from tenacity import (
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
)

from bytewax_redis_state.backend.generator import Command
from bytewax_redis_state.backend.operation import Operation
from bytewax_redis_state.backend.statistics import Meter
from bytewax_redis_state.backend.transport.round_trip import RoundTripError
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import (
    ServerLoginError,
    ServerUnavailableError,
    StateError,
    UnknownOutcomeError,
)
from bytewax_redis_state.scripts.state_scripts import with_source
from bytewax_redis_state.server.translation import translate_error

__all__ = ["RetryPolicy"]

_log = logging.getLogger(__name__)
_WAITING = frozenset({"lock"})
"""Operations that take as long as another client holds something; they are never slow."""


class RetryPolicy:
    """How often, how long and with which waits a round trip is tried; counts and logs it.

    :arg config: Holds the limits.
    :arg meter: Counts operations, errors and retries.
    :arg slow: An operation that takes longer is logged.
    """

    def __init__(self, config: RedisConfig, meter: Meter, slow: timedelta) -> None:
        self.address = config.address
        self.meter = meter
        self._slow = slow.total_seconds()
        self._attempts = config.retry_attempts + 1
        self._has_callback = config.credentials is not None
        self._base = config.retry_base_delay.total_seconds()
        self._longest = config.retry_max_delay.total_seconds()
        limit = config.connect_timeout + config.read_timeout + config.retry_max_delay
        self._limit = limit.total_seconds()

    def settings(self, operation: Operation[Any], started: float) -> dict[str, Any]:
        """Make the arguments of a tenacity object.

        :arg operation: The operation whose round trip failed.
        :arg started: When the round trip began. That attempt counts as the first.
        """
        left = max(0.0, self._limit - (time.monotonic() - started))

        def before_sleep(state: RetryCallState) -> None:
            self.meter.retry()
            wait = state.next_action.sleep if state.next_action else 0.0
            error = state.outcome.exception() if state.outcome else None
            _log.warning(
                "event=retry operation=%s attempt=%d wait_s=%.3f error=%s message=%r",
                operation.kind, state.attempt_number, wait, type(error).__name__, str(error),
            )  # fmt: skip

        return {
            "stop": stop_after_attempt(self._attempts) | stop_before_delay(left),
            "wait": self._wait,
            "retry": retry_if_exception(self._may_pass),
            "before_sleep": before_sleep,
            "reraise": True,
        }

    def _may_pass(self, error: BaseException) -> bool:
        # A callback may return another token the next time; the password of a URL stays refused.
        if isinstance(error, ServerLoginError):
            return self._has_callback
        return isinstance(error, ServerUnavailableError)

    def _wait(self, state: RetryCallState) -> float:
        # Jitter, so that the clients of a server that was away do not all come back at once.
        longest: float = min(self._longest, self._base * 2 ** (state.attempt_number - 1))
        return longest * random.uniform(0.5, 1.0)

    def ended(self, operation: Operation[Any], seconds: float) -> None:
        """Count an operation that ended well, and log a slow one."""
        self.meter.ended(operation.kind, seconds)
        if seconds > self._slow and operation.kind not in _WAITING:
            _log.warning("event=slow operation=%s seconds=%.3f", operation.kind, seconds)

    def failed(self, operation: Operation[Any], error: BaseException, seconds: float) -> None:
        """Count an operation that ended with an error, and log it if the server is away."""
        self.meter.failed(error, seconds)
        if isinstance(error, ServerUnavailableError | UnknownOutcomeError):
            _log.error(
                "event=given_up operation=%s seconds=%.3f error=%s message=%r",
                operation.kind, seconds, type(error).__name__, str(error),
            )  # fmt: skip

    def recovered(self, operation: Operation[Any], seconds: float) -> None:
        """Log that the server answers again."""
        _log.info(
            "event=recovered operation=%s seconds=%.3f address=%s",
            operation.kind, seconds, self.address,
        )  # fmt: skip

    def as_state_error(self, operation: Operation[Any], error: RoundTripError) -> StateError:
        """Make our error of a round trip that brought no replies."""
        ours = translate_error(error.cause, self.address)
        if error.sent and not operation.idempotent:
            return UnknownOutcomeError(
                f"{operation.kind} was sent to {self.address} and no reply came: {ours.message}",
                "it may or may not have been carried out: read the keys before you try again",
            )
        return ours

    def unknown_scripts(
        self, operation: Operation[Any], commands: list[Command], replies: list[Any]
    ) -> dict[int, Command]:
        """Find the commands that the server refused because it doesn't know their script.

        :arg operation: The operation that sent the commands.
        :arg commands: The commands.
        :arg replies: One per command.
        :returns: By index, the commands to send again, now with the source of the script.
        :raises StateError: If there is an error reply of another kind.
        """
        # This runs for every round trip, and nearly none has an error reply.
        if not any(isinstance(reply, Exception) for reply in replies):
            return {}
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                ours = translate_error(reply, self.address)
                raise type(ours)(f"{operation.kind}: {ours.message}", ours.hint) from reply
        unknown = (i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError))
        return {index: with_source(commands[index]) for index in unknown}

    def merge(
        self,
        operation: Operation[Any],
        replies: list[Any],
        again: dict[int, Command],
        new_replies: list[Any],
    ) -> list[Any]:
        """Put the replies to commands that were sent again in place of the refusals."""
        self.unknown_scripts(operation, list(again.values()), new_replies)
        for index, reply in zip(again, new_replies, strict=True):
            replies[index] = reply
        return replies
