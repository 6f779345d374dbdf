"""Paths inside a value, such as ``value['a'][3]``, for errors only; speed doesn't matter here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from reprlib import repr as short_repr
from typing import Any

__all__ = ["innermost_failure", "path_to"]


def _parts(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        yield from ((".keys()", key) for key in node)
        yield from ((f"[{short_repr(key)}]", part) for key, part in node.items())
    elif isinstance(node, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(node))
    elif isinstance(node, (set, frozenset)):
        yield from (("{…}", part) for part in node)
    elif not isinstance(node, type):
        slots = getattr(type(node), "__slots__", ())
        names = (slots,) if isinstance(slots, str) else tuple(slots)
        yield from ((f".{name}", getattr(node, name)) for name in names if hasattr(node, name))
        yield from ((f".{name}", part) for name, part in getattr(node, "__dict__", {}).items())


def path_to(value: Any, target: object) -> str:
    """Find the path to an object inside a value.

    :arg value: The value to search.
    :arg target: The object, found by identity.
    :returns: The first path to it; ``value`` where it is not found.
    """
    stack: list[tuple[str, Any]] = [("value", value)]
    seen: set[int] = set()
    while stack:
        path, node = stack.pop()
        if node is target:
            return path
        if id(node) not in seen:
            seen.add(id(node))
            stack += [(path + label, part) for label, part in _parts(node)][::-1]
    return "value"


def innermost_failure(value: Any, fails: Callable[[Any], bool]) -> tuple[str, Any]:
    """Follow a failure down to the innermost part that fails by itself.

    :arg value: A value that fails.
    :arg fails: Tells whether a part fails.
    :returns: Path to the part, and the part.
    """
    path, node = "value", value
    seen: set[int] = set()
    while id(node) not in seen:
        seen.add(id(node))
        for label, part in _parts(node):
            if fails(part):
                path, node = path + label, part
                break
    return path, node
