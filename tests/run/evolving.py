"""A flow whose class of state changes between two starts: VERSION=1 writes, VERSION=2 reads."""

import enum
import os
from collections import namedtuple
from dataclasses import dataclass

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

CASE = os.environ["CASE"]
CHANGED = os.environ["VERSION"] == "2"


@dataclass
class State:
    total: int = 1


def first():
    return State()


if CASE == "setstate" and CHANGED:

    @dataclass
    class State:
        total: int = 1
        currency: str = ""

        def __setstate__(self, old):
            self.__dict__.update({"currency": "EUR"} | old)

elif CASE == "alias" and CHANGED:

    @dataclass
    class Account:
        total: int = 1

    State = Account
elif CASE == "moved" and CHANGED:
    from evolved import State
elif CASE == "plain" and CHANGED:

    class State:
        pass

elif CASE == "enum":

    class State(enum.Enum):
        OPEN = "o"
        locals()["SHUT" if CHANGED else "CLOSED"] = "c"

    def first():
        return State("c")

elif CASE == "missing":

    class State(enum.Enum):
        OPEN = "o"
        if not CHANGED:
            CLOSED = "c"

        @classmethod
        def _missing_(cls, _value):
            return cls.OPEN

    def first():
        return State("c")

elif CASE == "namedtuple":
    State = namedtuple("State", "total")
    if CHANGED:

        class State(namedtuple("Base", "total currency")):
            def __new__(cls, total, currency="EUR"):
                return super().__new__(cls, total, currency)

    def first():
        return State(1)

elif CASE == "deep":

    def first():
        state = ()
        for _ in range(50):
            state = (state,)
        return state


KEYS = [f"k{n}" for n in range(12)]


class Part(StatefulSourcePartition):
    def __init__(self, resume):
        self.at = resume or 0

    def next_batch(self):
        if self.at > CHANGED:
            raise StopIteration
        self.at += 1
        return [(key, 1) for key in KEYS]

    def snapshot(self):
        return self.at


class Source(FixedPartitionedSource):
    def list_parts(self):
        return ["p"]

    def build_part(self, _step_id, _key, resume):
        return Part(resume)


def keep(state, _):
    known = state is not None
    state = state if known else first()
    fields = getattr(state, "__dict__", None) or (state if CASE != "deep" else "")
    return state, f"{known} {type(state).__name__} {fields}"


flow = Dataflow("evolving")
kept = op.stateful_map("keep", op.input("in", flow, Source()), keep)
op.output("out", op.map("text", kept, str), StdOutSink())
