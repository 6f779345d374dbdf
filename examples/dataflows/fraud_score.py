"""Find payments that don't fit their card: unusual amounts from unusual devices.

Every payment is compared with what its card paid so far. A second stream brings, for every
payment, how well the device was known it was made on; a join waits until both are there.

Both streams are made up, and payment `i` and its device check follow from `i` alone: a run that is
killed and resumed reads exactly the same payments again.

=============  ==========================================================================
`compare`      keys are cards, `card-0`, `card-1`, …; state: `(payments, cents)` so far
`with_check`   keys are payment numbers; state: the half that came first, gone as soon as
               the other half is there
=============  ==========================================================================

Run it with Bytewax alone, or with its state in Redis:

    python -m bytewax.run examples/dataflows/fraud_score.py:flow
    python -m bytewax_redis_state.run examples/dataflows/fraud_score.py:flow \
        --redis redis://localhost:6379 -s 1

Settings, from the environment:

=================  ======================================================  =======
FRAUD_EVENTS       payments in the stream                                  20000
FRAUD_CARDS        cards; a multiple of 2, else rounded down to one        200
FRAUD_BATCH        payments a source partition reads at once               100
FRAUD_PAUSE        seconds a source partition rests between batches        0
=================  ======================================================  =======
"""

import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

EVENTS = int(os.environ.get("FRAUD_EVENTS", "20000"))
CARDS = int(os.environ.get("FRAUD_CARDS", "200"))
BATCH = int(os.environ.get("FRAUD_BATCH", "100"))
PAUSE = timedelta(seconds=float(os.environ.get("FRAUD_PAUSE", "0")))

PARTS = 2
SUSPICIOUS = 500

Payment = tuple[str, tuple[int, int]]  # card, (payment number, cents)
Check = tuple[str, int]  # payment number, strangeness of the device from 0 to 100


# --- The streams --------------------------------------------------------------------------------


def draw(i: int, purpose: str) -> float:
    """Return a number in [0, 1) that looks random and is always the same for `i` and `purpose`."""
    digest = hashlib.blake2b(f"{purpose} {i}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def payment(i: int) -> Payment:
    """Make payment `i`: up to 100 €, and in one of fifty cases ten times as much."""
    # All payments of a card come from one partition, so that their order doesn't depend on how
    # the partitions are spread over the workers.
    card = int(draw(i, "card") * max(1, CARDS // PARTS)) * PARTS + i % PARTS
    cents = 1 + int(draw(i, "amount") * 9999)
    return (f"card-{card}", (i, cents * 10 if draw(i, "large") < 0.02 else cents))


def device_check(i: int) -> Check:
    """Make the device check of payment `i`."""
    return (str(i), int(draw(i, "device") * 101))


class NumberedPartition(StatefulSourcePartition[Any, int]):
    """Every second item of a numbered stream; the state is the number of the next one."""

    def __init__(self, make: Callable[[int], Any], next_number: int):
        self._make = make
        self._next_number = next_number
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        """Make the next items."""
        if self._next_number >= EVENTS:
            raise StopIteration
        numbers = range(self._next_number, EVENTS, PARTS)[:BATCH]
        self._next_number = numbers[-1] + PARTS
        if PAUSE:
            self._awake = datetime.now(timezone.utc) + PAUSE
        return [self._make(i) for i in numbers]

    def next_awake(self) -> datetime | None:
        """Rest between batches, if asked to."""
        return self._awake

    def snapshot(self) -> int:
        """Remember which item is next."""
        return self._next_number


class NumberedSource(FixedPartitionedSource[Any, int]):
    """A numbered stream, in two partitions that two workers can share."""

    def __init__(self, make: Callable[[int], Any]):
        self._make = make

    def list_parts(self) -> list[str]:
        """Name the partitions."""
        return [str(part) for part in range(PARTS)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> NumberedPartition:
        """Start a partition, or go on where its last snapshot was taken."""
        next_number = int(for_part) if resume_state is None else resume_state
        return NumberedPartition(self._make, next_number)


# --- The flow -----------------------------------------------------------------------------------

Compared = tuple[int, int, int]  # payment number, cents, percent of the card's average so far


def compare(so_far: tuple[int, int] | None, paid: tuple[int, int]) -> tuple[Any, Compared]:
    number, cents = paid
    payments, spent = so_far or (0, 0)
    percent = 100 * cents * payments // spent if payments else 100
    return ((payments + 1, spent + cents), (number, cents, percent))


def by_payment(card_compared: tuple[str, Compared]) -> tuple[str, tuple[str, int, int]]:
    card, (number, cents, percent) = card_compared
    return (str(number), (card, cents, percent))


def score(joined: tuple[tuple[str, int, int], int]) -> tuple[str, int, int]:
    (card, cents, percent), strangeness = joined
    return (card, cents, percent * strangeness // 100)


def text(scored: tuple[str, tuple[str, int, int]]) -> str:
    number, (card, cents, points) = scored
    return f"payment {number:<7} {card:<9} {cents / 100:>8,.2f} €  score {points:>5}"


flow = Dataflow("fraud_score")

payments = op.input("payments", flow, NumberedSource(payment))
# → (card, (number, cents))
checks = op.input("checks", flow, NumberedSource(device_check))
# → (number, strangeness)

compared = op.stateful_map("compare", payments, compare)
# → (card, (number, cents, percent))
numbered = op.map("by_payment", compared, by_payment)
# → (number, (card, cents, percent))

joined = op.join("with_check", numbered, checks)
# → (number, ((card, cents, percent), strangeness))
scored = op.map_value("score", joined, score)
# → (number, (card, cents, score))
suspicious = op.filter_value("suspicious", scored, lambda payment: payment[2] >= SUSPICIOUS)
# → (number, (card, cents, score)), of few payments

lines = op.map("line", suspicious, text)
# → one line of text
op.output("out", lines, StdOutSink())
