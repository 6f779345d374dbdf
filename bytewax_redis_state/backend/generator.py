"""Generators that describe work without doing any I/O, and the two functions that run them.

A generator yields a step and is sent the step's answer, or yields a :class:`Pause`; its return
value is the result. ``run_generator`` carries the steps out in blocking code, and
``run_generator_async`` in coroutines.

Invariant: nothing else in this room runs such a generator, so blocking code and coroutines can't
come to treat the same generator differently.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Command", "CommandGenerator", "Pause", "run_generator", "run_generator_async"]

_Step = TypeVar("_Step")
_Result = TypeVar("_Result")

Command = tuple[Any, ...]
"""The name of a Redis command and its arguments."""


@dataclass(frozen=True)
class Pause:
    """A step that only waits."""

    seconds: float


CommandGenerator = Generator["list[Command] | Pause", Any, _Result]
"""Each step is the commands of one round trip; its answer is one reply per command."""


def run_generator(
    generator: Generator[_Step | Pause, Any, _Result], answer: Callable[[_Step], Any]
) -> _Result:
    """Run a generator in blocking code.

    :arg generator: Not started yet.
    :arg answer: Carries out a step that is no pause; gives what the generator is sent.
    :returns: What the generator returned.
    """
    try:
        step = next(generator)
        while True:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = next(generator)
            else:
                step = generator.send(answer(step))
    except StopIteration as done:
        result: _Result = done.value
        return result


async def run_generator_async(
    generator: Generator[_Step | Pause, Any, _Result], answer: Callable[[_Step], Awaitable[Any]]
) -> _Result:
    """Run a generator in a coroutine; as :func:`run_generator`."""
    try:
        step = next(generator)
        while True:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = next(generator)
            else:
                step = generator.send(await answer(step))
    except StopIteration as done:
        result: _Result = done.value
        return result
