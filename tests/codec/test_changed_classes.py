"""Classes that changed since a state was written: what a pickle would have read is read.

Without pickle, no method of a class runs for it; where one would have to, the class is named.
"""

from __future__ import annotations

import enum
import pickle
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import PICKLE, open_envelope
from bytewax_redis_state.errors import DecodeError

MODULE = "changing"
PLACE = {"namespace": "n", "flow_id": "f", "step": "keep"}


def fresh(*, allow_pickle: bool = True):
    """A codec of a new process: it has met no class yet."""
    return Codec(allow_pickle=allow_pickle).bind(**PLACE)


def module(source: str, name: str = MODULE) -> ModuleType:
    made = sys.modules[name] = ModuleType(name)
    exec(source, made.__dict__)
    return made


@pytest.fixture(autouse=True)
def _forget():
    yield
    for name in (MODULE, "moved_to"):
        sys.modules.pop(name, None)


HEAD = """
import enum
from collections import namedtuple
from dataclasses import dataclass
"""
BASIC = HEAD + "@dataclass\nclass State:\n    total: int\n"
FIRST = "State(1)"
RED = "class State(enum.Enum):\n    A = 'a'\n    RED = 'r'\n"
CHANGES = {
    "setstate": (
        BASIC,
        FIRST,
        BASIC + "    currency: str = ''\n"
        "    def __setstate__(self, old):\n"
        "        self.__dict__.update({'currency': 'EUR', **old})\n",
        "State(1, 'EUR')",
        "has __setstate__ now",
    ),
    "alias": (BASIC, FIRST, BASIC.replace("State", "Account") + "State = Account\n", FIRST, None),
    "plain": (
        BASIC,
        FIRST,
        HEAD + "class State:\n    def __eq__(self, other):\n"
        "        return self.__dict__ == other.__dict__\n"
        "def made():\n    it = State()\n    it.total = 1\n    return it\n",
        "made()",
        "is no longer a dataclass",
    ),
    "slots to setstate": (
        HEAD + "@dataclass(slots=True)\nclass State:\n    total: int\n",
        FIRST,
        HEAD + "@dataclass\nclass State:\n    total: int\n"
        "    def __setstate__(self, old):\n        self.total = old[1]['total']\n",
        FIRST,
        "has __setstate__ now",
    ),
    "enum": (HEAD + RED, "State.RED", HEAD + RED.replace("RED", "CRIMSON"), "State.CRIMSON", None),
    "swapped": (
        HEAD + RED,
        "State.RED",
        HEAD + "class State(enum.Enum):\n    A = 'r'\n    RED = 'a'\n",
        "State.A",
        None,
    ),
    "missing": (
        HEAD + RED,
        "State.RED",
        HEAD + "class State(enum.Enum):\n    A = 'a'\n    @classmethod\n"
        "    def _missing_(cls, value):\n        return cls.A\n",
        "State.A",
        "has no member named 'RED' and none of value 'r'",
    ),
    "namedtuple": (
        HEAD + "State = namedtuple('State', 'total')\n",
        FIRST,
        HEAD + "class State(namedtuple('Base', 'total currency')):\n"
        "    def __new__(cls, total, currency='EUR'):\n"
        "        return super().__new__(cls, total, currency)\n",
        "State(1, 'EUR')",
        "is no longer a namedtuple",
    ),
    "namedtuple with slots": (
        HEAD + "State = namedtuple('State', 'total')\n",
        FIRST,
        HEAD + "class State(namedtuple('Base', 'total currency')):\n    __slots__ = ()\n"
        "    def __new__(cls, total, currency='EUR'):\n"
        "        return super().__new__(cls, total, currency)\n",
        "State(1, 'EUR')",
        "has the field 'currency' now, which the value lacks",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_pickle_would_have_read_after_a_change_is_read(change):
    before, value, after, expected, refused = CHANGES[change]
    old = module(before)
    state = eval(value, old.__dict__)
    data = fresh(allow_pickle=False).encode("ann", [state])
    assert open_envelope("ann", data).codec != PICKLE
    stock = pickle.dumps([state], 5)
    new = module(after)
    wanted = eval(expected, new.__dict__)
    assert pickle.loads(stock) == [wanted], "stock reads something else"
    (back,) = fresh().decode("ann", data)
    assert (back, type(back)) == (wanted, type(wanted))
    if refused is None:
        assert fresh(allow_pickle=False).decode("ann", data) == [wanted]
        return
    with pytest.raises(DecodeError, match=rf"step 'keep', key 'ann': changing.State .*{refused}"):
        fresh(allow_pickle=False).decode("ann", data)


def test_a_class_that_moved_and_is_imported_back_is_found():
    data = fresh().encode("ann", module(BASIC).State(1))
    moved = module(BASIC, "moved_to")
    module("from moved_to import State\n")
    for allow_pickle in (True, False):
        back = fresh(allow_pickle=allow_pickle).decode("ann", data)
        assert (type(back), back.total) == (moved.State, 1)


def test_a_module_is_asked_for_a_name_only_where_pickle_is_allowed():
    data = fresh().encode("ann", module(BASIC).State(1))
    moved = module(BASIC, "moved_to")
    module("import moved_to\ndef __getattr__(name):\n    return getattr(moved_to, name)\n")
    assert type(fresh().decode("ann", data)) is moved.State
    with pytest.raises(DecodeError, match=r"there is no class changing.State"):
        fresh(allow_pickle=False).decode("ann", data)


def test_a_class_that_is_gone_is_named_with_its_step():
    data = fresh().encode("ann", module(BASIC).State(1))
    module("")
    with pytest.raises(DecodeError, match=r"step 'keep', key 'ann': there is no class changing"):
        fresh().decode("ann", data)


class Simple(enum.Enum):
    TEXT = "x"
    PAIR = (1, "y")
    LIST = [1]  # noqa: RUF012 - what is not simple goes by its name
    CALL = dataclass


@pytest.mark.parametrize("member", Simple, ids=str)
def test_members_of_any_value_come_back(member):
    for _ in range(2):
        for codec in (fresh(), fresh(allow_pickle=False)):
            assert codec.decode("k", codec.encode("k", [member, (member,)])) == [member, (member,)]
