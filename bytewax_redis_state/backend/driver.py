"""Drivers: run operations, in blocking code or in coroutines, with retries and statistics.

A round trip is tried again only if the server was away, and only if the operation is idempotent or
the server certainly did not carry the commands out. One deadline bounds a round trip with all its
attempts. Most operations have one round trip; waiting for a lock has many, and pauses in between.

Invariant: a driver gives a result or raises one of our own errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from tenacity import AsyncRetrying, Retrying

from bytewax_redis_state.backend.generator import Command, run_generator, run_generator_async
from bytewax_redis_state.backend.operation import Operation
from bytewax_redis_state.backend.retry_policy import RetryPolicy
from bytewax_redis_state.backend.transport.cluster_pool import AsyncClusterPool, ClusterPool
from bytewax_redis_state.backend.transport.connection_pool import (
    AsyncConnectionPool,
    ConnectionPool,
)
from bytewax_redis_state.backend.transport.round_trip import RoundTripError
from bytewax_redis_state.errors import ServerUnavailableError

__all__ = ["AsyncDriver", "Driver"]

_Result = TypeVar("_Result")


class Driver:
    """Run operations for blocking code; any number of threads may share one.

    :arg pool: Carries the round trips.
    :arg retry_policy: Says when to try again.
    """

    def __init__(self, pool: ConnectionPool | ClusterPool, retry_policy: RetryPolicy) -> None:
        self._pool = pool
        self._retry_policy = retry_policy

    def run(self, operation: Operation[_Result]) -> _Result:
        """Run an operation.

        :arg operation: Not run before.
        :returns: Its result.
        :raises StateError: As the operation says, and as ``ServerError`` says.
        """
        started = time.monotonic()
        try:
            result = run_generator(operation.generator, partial(self._round_trip, operation))
        except BaseException as error:
            self._retry_policy.failed(operation, error, time.monotonic() - started)
            raise
        self._retry_policy.ended(operation, time.monotonic() - started)
        return result

    def _round_trip(self, operation: Operation[Any], commands: list[Command]) -> list[Any]:
        started = time.monotonic()
        try:
            return self._attempt(operation, commands)
        except ServerUnavailableError as error:
            return self._retry(operation, commands, started, error)

    def _attempt(self, operation: Operation[Any], commands: list[Command]) -> list[Any]:
        if len(commands) > 1:
            self._retry_policy.meter.pipeline()
        try:
            replies = self._pool.exchange(commands)
            again = self._retry_policy.unknown_scripts(operation, commands, replies)
            if not again:
                return replies
            new_replies = self._pool.exchange(list(again.values()))
            return self._retry_policy.merge(operation, replies, again, new_replies)
        except RoundTripError as error:
            raise self._retry_policy.as_state_error(operation, error) from error.cause

    def _retry(
        self,
        operation: Operation[Any],
        commands: list[Command],
        started: float,
        first: ServerUnavailableError,
    ) -> list[Any]:
        failures = [first]

        # tenacity makes the first attempt itself. Ours was made without it, because it costs more
        # than a round trip; so its first attempt raises the error that we already have.
        def attempt() -> list[Any]:
            if failures:
                raise failures.pop()
            return self._attempt(operation, commands)

        replies: list[Any] = Retrying(**self._retry_policy.settings(operation, started))(attempt)
        self._retry_policy.recovered(operation, time.monotonic() - started)
        return replies


class AsyncDriver:
    """Run operations for the coroutines of any event loop; as :class:`Driver`.

    :arg pool: Gives the connection pool of the running loop.
    :arg retry_policy: Says when to try again.
    """

    def __init__(
        self, pool: Callable[[], AsyncConnectionPool | AsyncClusterPool], retry_policy: RetryPolicy
    ) -> None:
        self._pool = pool
        self._retry_policy = retry_policy

    async def run(self, operation: Operation[_Result]) -> _Result:
        """Run an operation; as :meth:`Driver.run`."""
        started = time.monotonic()
        round_trip = partial(self._round_trip, operation)
        try:
            result = await run_generator_async(operation.generator, round_trip)
        except BaseException as error:
            self._retry_policy.failed(operation, error, time.monotonic() - started)
            raise
        self._retry_policy.ended(operation, time.monotonic() - started)
        return result

    async def _round_trip(self, operation: Operation[Any], commands: list[Command]) -> list[Any]:
        started = time.monotonic()
        try:
            return await self._attempt(operation, commands)
        except ServerUnavailableError as error:
            return await self._retry(operation, commands, started, error)

    async def _attempt(self, operation: Operation[Any], commands: list[Command]) -> list[Any]:
        if len(commands) > 1:
            self._retry_policy.meter.pipeline()
        pool = self._pool()
        try:
            replies = await pool.exchange(commands)
            again = self._retry_policy.unknown_scripts(operation, commands, replies)
            if not again:
                return replies
            new_replies = await pool.exchange(list(again.values()))
            return self._retry_policy.merge(operation, replies, again, new_replies)
        except RoundTripError as error:
            raise self._retry_policy.as_state_error(operation, error) from error.cause

    async def _retry(
        self,
        operation: Operation[Any],
        commands: list[Command],
        started: float,
        first: ServerUnavailableError,
    ) -> list[Any]:
        failures = [first]

        # As in Driver._retry: tenacity's first attempt raises the error that we already have.
        async def attempt() -> list[Any]:
            if failures:
                raise failures.pop()
            return await self._attempt(operation, commands)

        retrying = AsyncRetrying(**self._retry_policy.settings(operation, started))
        replies: list[Any] = await retrying(attempt)
        self._retry_policy.recovered(operation, time.monotonic() - started)
        return replies
