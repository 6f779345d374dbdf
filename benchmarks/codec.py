"""Time the codec beside pickle: ``python benchmarks/codec.py``.

Prints microseconds per value and the ratio to ``pickle``. The codec's times include the envelope
with its check sum, which bare pickle and bare msgpack don't have. Then what compression, encryption
and signing cost on top, for a small and a large value.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from timeit import Timer
from typing import Any

import msgpack
from bytewax.operators.windowing import (
    WindowMetadata,
    _EventClockState,
    _SlidingWindowerState,
    _WindowSnapshot,
)

from bytewax_redis_state.codec import Codec

KEY = "user:123456"
NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)


def _window() -> WindowMetadata:
    return WindowMetadata(NOW, NOW + timedelta(minutes=1))


VALUES: dict[str, Any] = {
    "int": 123456,
    "float": 1.5,
    "str": "a short string",
    "small tuple": (3, 4.5, "x"),
    "small list": [3, 4.5, "x"],
    "small dict": {"count": 3, "sum": 4.5, "name": "x"},
    "nested": {"count": 3, "last": [1, 2, 3], "pair": (1, 2)},
    "datetime": NOW,
    "1,000 ints": list(range(1000)),
    "window snapshot": _WindowSnapshot(
        clock_state=_EventClockState(NOW, NOW),
        windower_state=_SlidingWindowerState({1: _window(), 2: _window()}),
        logic_states={1: 17, 2: 4},
        queue=[(3, NOW)],
    ),
}


ENCRYPTED: dict[str, Any] = {"encryption_keys": {"k": os.urandom(32)}, "encrypt_with": "k"}
SIGNED: dict[str, Any] = {"signing_keys": {"k": os.urandom(32)}, "sign_with": "k"}
STAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "zlib": {"compression": "zlib"},
    "zstd": {"compression": "zstd"},
    "encrypted": ENCRYPTED,
    "signed": SIGNED,
    "zstd, encrypted, signed": {"compression": "zstd"} | ENCRYPTED | SIGNED,
}
SIZES: dict[str, Any] = {
    "small": VALUES["small dict"],
    "10 kB": [{"user": f"user:{n}", "amount": n * 7.25, "at": n} for n in range(250)],
}


def _micros(call: Callable[[], Any]) -> float:
    timer = Timer(call)
    number, _ = timer.autorange()
    number = max(1, number // 4)
    return min(timer.repeat(5, number)) / number * 1e6


def _msgpack_micros(value: Any) -> str:
    packer = msgpack.Packer()
    try:
        packer.pack(value)
    except TypeError:
        return "-"
    return f"{_micros(lambda: packer.pack(value)):.2f}"


def _print_stages() -> None:
    columns = "{:<24}{:<8}{:>8}{:>8}{:>8}"
    print(columns.format("stages", "value", "enc µs", "dec µs", "bytes"))
    for stages, settings in STAGES.items():
        codec = Codec(**settings).bind(namespace="bytewax", flow_id="bench", step="sum")
        for size, value in SIZES.items():
            data = codec.encode(KEY, value)
            assert codec.decode(KEY, data) == value
            enc = _micros(lambda v=value, c=codec: c.encode(KEY, v))
            dec = _micros(lambda d=data, c=codec: c.decode(KEY, d))
            print(columns.format(stages, size, f"{enc:.2f}", f"{dec:.2f}", len(data)))


def main() -> None:
    codec = Codec().bind(namespace="bytewax", flow_id="bench", step="sum")
    columns = "{:<16}{:>8}{:>8}{:>8}{:>7}{:>8}{:>8}{:>7}{:>7}{:>7}"
    head = ("value", "enc µs", "pickle", "msgpack", "×", "dec µs", "pickle", "×", "bytes", "pickle")
    print(columns.format(*head))
    for name, value in VALUES.items():
        ours, theirs = codec.encode(KEY, value), pickle.dumps(value, 5)
        assert codec.decode(KEY, ours) == value
        times = [
            _micros(lambda v=value: codec.encode(KEY, v)),
            _micros(lambda v=value: pickle.dumps(v, 5)),
            _micros(lambda d=ours: codec.decode(KEY, d)),
            _micros(lambda d=theirs: pickle.loads(d)),
        ]
        enc, enc_pickle, dec, dec_pickle = (f"{micros:.2f}" for micros in times)
        ratios = f"{times[0] / times[1]:.1f}", f"{times[2] / times[3]:.1f}"
        print(
            columns.format(
                name, enc, enc_pickle, _msgpack_micros(value), ratios[0],
                dec, dec_pickle, ratios[1], len(ours), len(theirs),
            )
        )  # fmt: skip
    print()
    _print_stages()


if __name__ == "__main__":
    main()
