"""An operation: what is sent and what becomes of the replies, apart from who sends it.

A program is a generator. It yields the commands of one trip and is sent their replies, or yields a
pause, and returns the operation's result. A blocking and an asyncio driver run the same programs.

Invariant: within a trip the order of commands doesn't matter, and a trip of an operation that is
not idempotent has one command. So a driver may repeat a command by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

__all__ = ["Command", "Operation", "Pause", "Program", "operation"]

_Result = TypeVar("_Result")
_Args = ParamSpec("_Args")
_Owner = TypeVar("_Owner")

Command = tuple[Any, ...]


@dataclass(frozen=True)
class Pause:
    """Wait before the next trip."""

    seconds: float


Program = Generator["list[Command] | Pause", Any, _Result]


class Operation(Generic[_Result]):
    """One call of a backend.

    :arg kind: Its name, for statistics, logs and errors.
    :arg idempotent: Whether a trip whose fate is unknown may be sent again.
    :arg program: Runs once.
    """

    __slots__ = ("idempotent", "kind", "program")

    def __init__(self, kind: str, program: Program[_Result], *, idempotent: bool) -> None:
        self.kind = kind
        self.idempotent = idempotent
        self.program = program


def operation(
    kind: str, *, idempotent: bool
) -> Callable[
    [Callable[Concatenate[_Owner, _Args], Program[_Result]]],
    Callable[Concatenate[_Owner, _Args], Operation[_Result]],
]:
    """Make a method that is a program into one that returns an :class:`Operation`."""

    def decorate(
        program: Callable[Concatenate[_Owner, _Args], Program[_Result]],
    ) -> Callable[Concatenate[_Owner, _Args], Operation[_Result]]:
        def describe(
            owner: _Owner, /, *args: _Args.args, **kwargs: _Args.kwargs
        ) -> Operation[_Result]:
            return Operation(kind, program(owner, *args, **kwargs), idempotent=idempotent)

        return update_wrapper(describe, program)

    return decorate
