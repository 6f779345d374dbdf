"""Changed classes: instances that are rebuilt as a pickle of them would be.

A flow's classes change between two starts: a class gets a ``__setstate__`` that fills in what older
states lack, or is no dataclass any longer. Unpickling calls ``cls.__new__``, with the values of a
namedtuple, then ``__setstate__``, or sets the attributes. A codec that allows pickle does the same
with a class that it can't rebuild by setting fields.

Invariant: only a codec that allows pickle comes here, because methods of the class run, with fields
that whoever wrote the value chose. Classes of Python's own library are refused even then: no state
of theirs was written, and some of them act on their fields.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["is_of_the_library", "rebuild_attributes", "rebuild_slots", "rebuild_tuple"]


def is_of_the_library(cls: type) -> bool:
    """Tell whether a class belongs to Python's own library."""
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names


def rebuild_attributes(cls: Any, fields: dict[str, Any]) -> Any:
    """Rebuild an instance of a class that was a dataclass with a ``__dict__``.

    :arg cls: The class as it is now.
    :arg fields: Name to value of the attributes that the instance had.
    """
    instance = cls.__new__(cls)
    if not _was_set(instance, fields):
        if not hasattr(instance, "__dict__"):
            return _with_each_set(instance, fields)
        instance.__dict__.update(fields)
    return instance


def rebuild_slots(cls: Any, fields: dict[str, Any], *, as_list: bool) -> Any:
    """Rebuild an instance of a class that was a dataclass with slots.

    :arg cls: The class as it is now.
    :arg fields: Name to value of the slots that the instance had.
    :arg as_list: Whether its pickle held the bare values, as that of a frozen dataclass does.
    """
    instance = cls.__new__(cls)
    if not _was_set(instance, [*fields.values()] if as_list else (None, fields)):
        _with_each_set(instance, fields)
    return instance


def rebuild_tuple(cls: Any, values: list[Any]) -> Any:
    """Rebuild an instance of a class that was a namedtuple.

    :arg cls: The class as it is now.
    :arg values: The values that the instance had.
    """
    return cls.__new__(cls, *values)


def _was_set(instance: Any, state: object) -> bool:
    set_state = getattr(instance, "__setstate__", None)
    if set_state is None:
        return False
    set_state(state)
    return True


def _with_each_set(instance: Any, fields: dict[str, Any]) -> Any:
    for name, value in fields.items():
        setattr(instance, name, value)
    return instance
