"""The schedule: which faults strike which flow, when, whom and how hard; all of it from a seed.

Invariant: the same seed, number, topologies and kinds give the same schedule, on any machine.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

__all__ = [
    "FAST_PATHS",
    "MOMENTS",
    "SERVERS",
    "TOPOLOGIES",
    "FlowTopology",
    "Kind",
    "Plan",
    "PlannedFault",
    "Schedule",
    "make_schedule",
]

MOMENTS = ("stream", "unshipped", "fold", "start")
"""When a fault strikes: at any time, when rows wait in the outbox, in mid-fold, in mid-start."""

SERVERS = ("single", "sentinel", "cluster")
"""What the Redis of a flow is: one server, a primary that Sentinels watch, or a Redis Cluster."""

FAST_PATHS = ("on", "off", "in-turn")
"""Whether a flow's operators run on fast paths; in turn: each start the other way."""

_FAULTS_PER_TRIAL = 6
_LEAST_SECONDS, _MOST_SECONDS = 0.3, 2.5


@dataclass(frozen=True)
class FlowTopology:
    """How a flow is spread.

    :arg processes: How many.
    :arg workers: Of each process.
    """

    processes: int
    workers: int


TOPOLOGIES: Mapping[str, FlowTopology] = {
    "1-worker": FlowTopology(1, 1),
    "2-workers": FlowTopology(1, 2),
    "2-processes": FlowTopology(2, 1),
    "3-processes": FlowTopology(3, 1),
}
"""What a flow is run on, by the name that the command line gives it."""


class Kind(Protocol):
    """A kind of fault, as far as a schedule has to know it."""

    @property
    def moments(self) -> Sequence[str]:
        """Those of :data:`MOMENTS` at which it may strike."""

    @property
    def servers(self) -> Sequence[str]:
        """Those of :data:`SERVERS` that it may strike."""


@dataclass(frozen=True)
class PlannedFault:
    """One fault.

    :arg kind: A name of ``faults.FAULTS``.
    :arg moment: One of :data:`MOMENTS`.
    :arg target: Number that chooses the process that is struck, modulo their number.
    :arg seconds: How long it lasts, where it lasts.
    :arg offset: From 0 to 1: where in the moment it strikes.
    :arg size: From 0 to 1: which variant of the kind, and how hard.
    """

    kind: str
    moment: str
    target: int
    seconds: float
    offset: float
    size: float


@dataclass(frozen=True)
class Plan:
    """What happens to one flow, from its start to its end.

    :arg number: Within the schedule.
    :arg topology: A name of :data:`TOPOLOGIES`.
    :arg servers: One of :data:`SERVERS`, which all its strikes can strike.
    :arg fast_paths: One of :data:`FAST_PATHS`.
    :arg strikes: In their order.
    """

    number: int
    topology: str
    servers: str
    fast_paths: str
    strikes: tuple[PlannedFault, ...]


@dataclass(frozen=True)
class Schedule:
    """All that a campaign does.

    :arg seed: From which it follows.
    :arg plans: One for each flow.
    """

    seed: int
    plans: tuple[Plan, ...]

    @property
    def faults(self) -> int:
        """How many there are."""
        return sum(len(plan.strikes) for plan in self.plans)


def make_schedule(
    seed: int,
    faults: int,
    topologies: Sequence[str],
    kinds: Mapping[str, Kind],
    *,
    fast_paths: Sequence[str] = FAST_PATHS,
    per_trial: int = _FAULTS_PER_TRIAL,
) -> Schedule:
    """Make the schedule of a seed.

    :arg faults: How many there are in all.
    :arg topologies: To go through, each of them equally often.
    :arg kinds: Each kind of fault by its name; used equally often.
    :arg fast_paths: To go through, on each topology; the faults stay the same.
    :arg per_trial: How many faults strike one flow.
    """
    source = random.Random(f"{seed} {faults} {topologies} {sorted(kinds)} {per_trial}")
    rounds = _Rounds(kinds, per_trial, source)
    orders = [_Order(rounds.begun_at(n / len(topologies)), kinds) for n in range(len(topologies))]
    plans: list[Plan] = []
    while faults > 0:
        turn, place = divmod(len(plans), len(topologies))
        paths = fast_paths[(turn + place) % len(fast_paths)]
        size = min(per_trial, faults)
        chosen, servers = orders[place].take(size)
        strikes = tuple(_strike(kind, kinds[kind].moments, source) for kind in chosen)
        plans.append(Plan(len(plans), topologies[place], servers, paths, strikes))
        faults -= size
    return Schedule(seed, tuple(plans))


class _Rounds:
    """Rounds of all kinds, each in another order; every topology goes through them all.

    They begin at different places of a round, so that few faults have all kinds, too. In a round
    those that need the same servers come together, among such that don't care.
    """

    def __init__(self, kinds: Mapping[str, Kind], together: int, source: random.Random) -> None:
        self._kinds = kinds
        self._together = together
        self._source = source
        self._rounds: list[list[str]] = []

    def begun_at(self, share: float) -> Iterator[str]:
        """Go through the rounds for ever, beginning so far into each."""
        start = int(share * len(self._kinds))
        for number in count():
            if number == len(self._rounds):
                self._rounds.append(self._round())
            a_round = self._rounds[number]
            yield from a_round[start:] + a_round[:start]

    def _round(self) -> list[str]:
        hands = self._dealt()
        for hand in hands.values():
            self._source.shuffle(hand)
        return [kind for name in self._source.sample(SERVERS, len(SERVERS)) for kind in hands[name]]

    def _dealt(self) -> dict[str, list[str]]:
        """Deal all kinds to servers that they can strike; who needs several gets a flow full."""
        one, *others = SERVERS
        hands: dict[str, list[str]] = {name: [] for name in SERVERS}
        free: list[str] = []
        for kind in self._source.sample(sorted(self._kinds), len(self._kinds)):
            servers = self._kinds[kind].servers
            (hands[servers[0]] if len(servers) == 1 else free).append(kind)
        for hand in (hands[name] for name in others if hands[name]):
            while free and len(hand) < self._together:
                hand.append(free.pop())
        hands[one] += free
        return hands


class _Order:
    """The kinds in the order of one topology; who can't share servers waits for the next flow."""

    def __init__(self, coming: Iterator[str], kinds: Mapping[str, Kind]) -> None:
        self._coming = coming
        self._kinds = kinds
        self._waiting: deque[str] = deque()

    def take(self, size: int) -> tuple[list[str], str]:
        """Take the next kinds that can all strike the same servers.

        :returns: They, and the first of the servers that all of them can strike.
        """
        chosen: list[str] = []
        passed: list[str] = []
        servers: Sequence[str] = SERVERS
        while len(chosen) < size:
            kind = self._waiting.popleft() if self._waiting else next(self._coming)
            shared = [each for each in servers if each in self._kinds[kind].servers]
            if shared:
                chosen.append(kind)
                servers = shared
            else:
                passed.append(kind)
        self._waiting.extendleft(reversed(passed))
        return chosen, servers[0]


def _strike(kind: str, moments: Sequence[str], source: random.Random) -> PlannedFault:
    return PlannedFault(
        kind=kind,
        moment=source.choice(moments),
        target=source.randrange(6),
        seconds=round(source.uniform(_LEAST_SECONDS, _MOST_SECONDS), 3),
        offset=round(source.random(), 3),
        size=round(source.random(), 3),
    )
