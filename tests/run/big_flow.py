"""KEYS keys in one shard, of SIZE bytes each; all of them change in each of EPOCHS epochs."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

KEYS, SIZE = int(os.environ["KEYS"]), int(float(os.environ["SIZE"]))
EPOCHS = int(os.environ.get("EPOCHS", "1"))


class _Keys(StatefulSourcePartition):
    def __init__(self, at):
        self._at = at or 0

    def next_batch(self):
        if self._at >= EPOCHS:
            raise StopIteration
        self._at += 1
        return [str(key) for key in range(KEYS)]

    def next_awake(self):
        return datetime.now(timezone.utc) + timedelta(milliseconds=300)

    def snapshot(self):
        return self._at


class Keys(FixedPartitionedSource):
    def list_parts(self):
        return ["one"]

    def build_part(self, step_id, for_part, resume_state):
        return _Keys(resume_state)


def turn(state, key):
    count = 0 if state is None else state[0]
    return (count + 1, bytes([count % 256]) * SIZE), (key, count + 1)


flow = Dataflow("big")
keyed = op.key_on("key", op.input("in", flow, Keys()), str)
turned = op.stateful_map("turn", keyed, turn)
op.output("out", op.map("line", turned, lambda kv: f"{kv[0]} {kv[1][1]}"), StdOutSink())
