"""An operation: the commands that one call of a backend sends, and what it makes of the replies.

An operation's generator sends nothing itself. ``Driver`` and ``AsyncDriver`` run the same one, so
each operation is written once for blocking code and for coroutines.

Invariant: the order of the commands within a round trip doesn't matter, and a round trip of an
operation that is not idempotent has one command. So a driver may send the commands to several
nodes, and may repeat a round trip of an idempotent operation by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, Generic, ParamSpec, TypeVar

from bytewax_redis_state.backend.generator import CommandGenerator

__all__ = ["Operation", "operation"]

_Result = TypeVar("_Result")
_Args = ParamSpec("_Args")
_Owner = TypeVar("_Owner")


class Operation(Generic[_Result]):
    """One call of a backend.

    :arg kind: The operation's name, for statistics, logs and errors.
    :arg idempotent: Whether a round trip may be sent again if nobody knows whether the server
        carried it out.
    :arg generator: Runs once.
    """

    __slots__ = ("generator", "idempotent", "kind")

    def __init__(
        self, kind: str, generator: CommandGenerator[_Result], *, idempotent: bool
    ) -> None:
        self.kind = kind
        self.idempotent = idempotent
        self.generator = generator


def operation(
    kind: str, *, idempotent: bool
) -> Callable[
    [Callable[Concatenate[_Owner, _Args], CommandGenerator[_Result]]],
    Callable[Concatenate[_Owner, _Args], Operation[_Result]],
]:
    """Make a generator method into a method that returns an :class:`Operation`."""

    def decorate(
        method: Callable[Concatenate[_Owner, _Args], CommandGenerator[_Result]],
    ) -> Callable[Concatenate[_Owner, _Args], Operation[_Result]]:
        def describe(
            owner: _Owner, /, *args: _Args.args, **kwargs: _Args.kwargs
        ) -> Operation[_Result]:
            return Operation(kind, method(owner, *args, **kwargs), idempotent=idempotent)

        return update_wrapper(describe, method)

    return decorate
