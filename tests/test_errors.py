"""The tree of errors is what its docstring draws, and each says what to do."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from bytewax_redis_state import errors


def classes() -> dict[str, type[Exception]]:
    return {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.StateError)
    }


def drawn() -> dict[str, str | None]:
    """Each class of the drawing to its base."""
    tree: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if match:
            while path and path[-1][0] >= len(match[1]):
                path.pop()
            tree[match[2]] = path[-1][1] if path else None
            path.append((len(match[1]), match[2]))
    return tree


def test_the_drawing_is_the_tree():
    bases = {name: kind.__base__.__name__ for name, kind in classes().items()}
    bases["StateError"] = None
    assert drawn() == bases


def test_all_lists_every_class():
    assert errors.__all__ == sorted(classes())


@pytest.mark.parametrize("name", errors.__all__)
def test_a_class_says_when_it_is_raised(name):
    assert inspect.getdoc(classes()[name]) != inspect.getdoc(Exception)


def test_an_error_is_what_is_wrong_and_what_to_do():
    error = errors.ConfigError("a is b", "make it c")
    assert (str(error), error.message, error.hint) == ("a is b; make it c", "a is b", "make it c")
    assert str(errors.ConfigError("a is b")) == "a is b"


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(errors.FencedError("gone", "start again")))
    assert (type(error), str(error)) == (errors.FencedError, "gone; start again")
