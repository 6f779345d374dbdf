"""Drivers: run operations, blocking or for asyncio, with retries, statistics and logs.

A trip is tried again only where that can mend what went wrong, and only if it surely was not
carried out or is idempotent. One deadline bounds a trip with all its attempts; most operations
have one trip, and a wait for a lock is none.

Invariant: what leaves a driver is a result or one of our errors.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from redis.exceptions import NoScriptError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
)

from bytewax_redis_state.backend.operation import Command, Operation, Pause
from bytewax_redis_state.backend.statistics import Meter
from bytewax_redis_state.backend.transport.cluster_pool import AsyncClusterPool, ClusterPool
from bytewax_redis_state.backend.transport.connection_pool import (
    AsyncConnectionPool,
    ConnectionPool,
)
from bytewax_redis_state.backend.transport.trip import TripError
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerUnavailableError, StateError, UnknownOutcomeError
from bytewax_redis_state.scripts.state_scripts import with_source
from bytewax_redis_state.server.translation import as_ours

__all__ = ["AsyncDriver", "Driver", "RetryPolicy"]

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)
_WAITING = frozenset({"lock"})  # take as long as somebody else does


class RetryPolicy:
    """Say how often, how long and with which waits an operation is tried; and tell of it.

    :arg config: Holds the numbers.
    :arg meter: Counts.
    :arg slow: An operation that takes longer is logged.
    """

    def __init__(self, config: RedisConfig, meter: Meter, slow: timedelta) -> None:
        self.address = config.address
        self.meter = meter
        self._slow = slow.total_seconds()
        self._attempts = config.retry_attempts + 1
        self._base = config.retry_base_delay.total_seconds()
        self._longest = config.retry_max_delay.total_seconds()
        limit = config.connect_timeout + config.read_timeout + config.retry_max_delay
        self._limit = limit.total_seconds()

    def settings(self, operation: Operation[Any], started: float) -> dict[str, Any]:
        """Make the arguments of a tenacity object.

        :arg operation: Whose trip failed.
        :arg started: When the trip began. Its attempt counts as the first.
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
            "retry": retry_if_exception_type(ServerUnavailableError),
            "before_sleep": before_sleep,
            "reraise": True,
        }

    def _wait(self, state: RetryCallState) -> float:
        longest: float = min(self._longest, self._base * 2 ** (state.attempt_number - 1))
        return longest * random.uniform(0.5, 1.0)

    def ended(self, operation: Operation[Any], seconds: float) -> None:
        """Count an operation that ended well; tell of a slow one."""
        self.meter.ended(operation.kind, seconds)
        if seconds > self._slow and operation.kind not in _WAITING:
            _log.warning("event=slow operation=%s seconds=%.3f", operation.kind, seconds)

    def failed(self, operation: Operation[Any], error: BaseException, seconds: float) -> None:
        """Count an operation that ended with an error; tell of a server that is away."""
        self.meter.failed(error, seconds)
        if isinstance(error, ServerUnavailableError | UnknownOutcomeError):
            _log.error(
                "event=given_up operation=%s seconds=%.3f error=%s message=%r",
                operation.kind, seconds, type(error).__name__, str(error),
            )  # fmt: skip

    def recovered(self, operation: Operation[Any], seconds: float) -> None:
        """Tell that the server answers again."""
        _log.info(
            "event=recovered operation=%s seconds=%.3f address=%s",
            operation.kind, seconds, self.address,
        )  # fmt: skip

    def severed(self, operation: Operation[Any], error: TripError) -> StateError:
        """Make our error of a trip that came to nothing."""
        ours = as_ours(error.cause, self.address)
        if error.sent and not operation.idempotent:
            return UnknownOutcomeError(
                f"{operation.kind} was sent, and no answer came: {ours.message}",
                "it may or may not have been carried out: look before you try again",
            )
        return ours

    def unknown_scripts(
        self, operation: Operation[Any], commands: list[Command], replies: list[Any]
    ) -> dict[int, Command]:
        """Look through replies for errors.

        :arg operation: Which these are of.
        :arg commands: What was sent.
        :arg replies: One per command.
        :returns: By their places, commands to send with the source of a script that the server
            doesn't know; they were not carried out.
        :raises StateError: If there is another error.
        """
        # Most often there is none.
        if not any(isinstance(reply, Exception) for reply in replies):
            return {}
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                ours = as_ours(reply, self.address)
                raise type(ours)(f"{operation.kind}: {ours.message}", ours.hint) from reply
        unknown = (i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError))
        return {place: with_source(commands[place]) for place in unknown}

    def merge(
        self,
        operation: Operation[Any],
        replies: list[Any],
        late: dict[int, Command],
        late_replies: list[Any],
    ) -> list[Any]:
        """Put the replies to commands that were sent again into their places."""
        self.unknown_scripts(operation, list(late.values()), late_replies)
        for place, reply in zip(late, late_replies, strict=True):
            replies[place] = reply
        return replies


class Driver:
    """Run operations for blocking code; any number of threads may share one.

    :arg wire: Carries the trips.
    :arg patience: Says when to try again.
    """

    def __init__(self, wire: ConnectionPool | ClusterPool, patience: RetryPolicy) -> None:
        self._wire = wire
        self._patience = patience

    def run(self, operation: Operation[_Result]) -> _Result:
        """Run an operation.

        :arg operation: Not run before.
        :returns: Its result.
        :raises StateError: As the operation says, and as ``ServerError`` says.
        """
        started = time.monotonic()
        program = operation.program
        try:
            trip = next(program)
            while True:
                if isinstance(trip, Pause):
                    time.sleep(trip.seconds)
                    trip = next(program)
                else:
                    trip = program.send(self._trip(operation, trip))
        except StopIteration as done:
            self._patience.ended(operation, time.monotonic() - started)
            result: _Result = done.value
            return result
        except BaseException as error:
            self._patience.failed(operation, error, time.monotonic() - started)
            raise

    def _trip(self, operation: Operation[Any], commands: list[Command]) -> Any:
        started = time.monotonic()
        try:
            return self._once(operation, commands)
        except ServerUnavailableError as error:
            return self._again(operation, commands, started, error)

    def _once(self, operation: Operation[Any], commands: list[Command]) -> list[Any]:
        if len(commands) > 1:
            self._patience.meter.pipeline()
        wire = self._wire
        try:
            replies = wire.exchange(commands)
            late = self._patience.unknown_scripts(operation, commands, replies)
            if not late:
                return replies
            late_replies = wire.exchange(list(late.values()))
            return self._patience.merge(operation, replies, late, late_replies)
        except TripError as error:
            raise self._patience.severed(operation, error) from error.cause

    def _again(
        self,
        operation: Operation[Any],
        commands: list[Command],
        started: float,
        first: ServerUnavailableError,
    ) -> list[Any]:
        failures = [first]

        def attempt() -> list[Any]:
            if failures:
                raise failures.pop()
            return self._once(operation, commands)

        replies: list[Any] = Retrying(**self._patience.settings(operation, started))(attempt)
        self._patience.recovered(operation, time.monotonic() - started)
        return replies


class AsyncDriver:
    """Run operations for the coroutines of any event loop; as :class:`Driver`.

    :arg wire: Gives the wire of the running loop.
    :arg patience: Says when to try again.
    """

    def __init__(
        self, wire: Callable[[], AsyncConnectionPool | AsyncClusterPool], patience: RetryPolicy
    ) -> None:
        self._wire = wire
        self._patience = patience

    async def run(self, operation: Operation[_Result]) -> _Result:
        """Run an operation; as :meth:`Driver.run`."""
        started = time.monotonic()
        program = operation.program
        try:
            trip = next(program)
            while True:
                if isinstance(trip, Pause):
                    await asyncio.sleep(trip.seconds)
                    trip = next(program)
                else:
                    trip = program.send(await self._trip(operation, trip))
        except StopIteration as done:
            self._patience.ended(operation, time.monotonic() - started)
            result: _Result = done.value
            return result
        except BaseException as error:
            self._patience.failed(operation, error, time.monotonic() - started)
            raise

    async def _trip(self, operation: Operation[Any], commands: list[Command]) -> Any:
        started = time.monotonic()
        try:
            return await self._once(operation, commands)
        except ServerUnavailableError as error:
            return await self._again(operation, commands, started, error)

    async def _once(self, operation: Operation[Any], commands: list[Command]) -> list[Any]:
        if len(commands) > 1:
            self._patience.meter.pipeline()
        wire = self._wire()
        try:
            replies = await wire.exchange(commands)
            late = self._patience.unknown_scripts(operation, commands, replies)
            if not late:
                return replies
            late_replies = await wire.exchange(list(late.values()))
            return self._patience.merge(operation, replies, late, late_replies)
        except TripError as error:
            raise self._patience.severed(operation, error) from error.cause

    async def _again(
        self,
        operation: Operation[Any],
        commands: list[Command],
        started: float,
        first: ServerUnavailableError,
    ) -> list[Any]:
        failures = [first]

        async def attempt() -> list[Any]:
            if failures:
                raise failures.pop()
            return await self._once(operation, commands)

        retrying = AsyncRetrying(**self._patience.settings(operation, started))
        replies: list[Any] = await retrying(attempt)
        self._patience.recovered(operation, time.monotonic() - started)
        return replies
