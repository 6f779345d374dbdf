"""The schedule: the faults of each flow, with their moment, target and size; all from a seed.

A fault that damages records comes first in its flow, and no flow has two of them: where the flow is
refused after the damage and begins again, no result of another fault is lost.

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

SERVERS = ("single", "sentinel", "cluster", "embedded")
"""The kinds of Redis: one server, a primary that Sentinels watch, a Redis Cluster, or an embedded
server, which only a flow of one process can have."""

_ONE_PROCESS = "embedded"

FAST_PATHS = ("on", "off", "in-turn")
"""Whether the operators of a flow run on fast paths; "in-turn": every second start."""

_FAULTS_PER_TRIAL = 6
_LEAST_SECONDS, _MOST_SECONDS = 0.3, 2.5


@dataclass(frozen=True)
class FlowTopology:
    """The processes and workers that share a flow.

    :arg processes: Their number.
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
"""Every topology, by its name on the command line."""


class Kind(Protocol):
    """The properties of a kind of fault that a schedule needs."""

    @property
    def moments(self) -> Sequence[str]:
        """The ones of :data:`MOMENTS` at which it may strike."""

    @property
    def servers(self) -> Sequence[str]:
        """The ones of :data:`SERVERS` that it may strike."""

    @property
    def damages(self) -> bool:
        """Whether it damages records, so that the flow may be refused."""


@dataclass(frozen=True)
class PlannedFault:
    """One fault of a plan.

    :arg kind: A name of ``faults.FAULTS``.
    :arg moment: One of :data:`MOMENTS`.
    :arg target: Chooses the process to strike: its number is the target modulo the processes.
    :arg seconds: Its length, where the kind has one.
    :arg offset: From 0 to 1: the point within the moment at which it strikes.
    :arg size: From 0 to 1: chooses the variant of the kind, and its size.
    """

    kind: str
    moment: str
    target: int
    seconds: float
    offset: float
    size: float


@dataclass(frozen=True)
class Plan:
    """The faults of one flow, from its start to its end.

    :arg number: Within the schedule.
    :arg topology: A name of :data:`TOPOLOGIES`.
    :arg servers: One of :data:`SERVERS`, which all its faults can strike.
    :arg fast_paths: One of :data:`FAST_PATHS`.
    :arg strikes: Its faults, in their order.
    """

    number: int
    topology: str
    servers: str
    fast_paths: str
    strikes: tuple[PlannedFault, ...]


@dataclass(frozen=True)
class Schedule:
    """The plans of a campaign.

    :arg seed: All plans follow from it.
    :arg plans: One for each flow.
    """

    seed: int
    plans: tuple[Plan, ...]

    @property
    def faults(self) -> int:
        """The number of faults in all plans."""
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

    :arg faults: Number of faults in all.
    :arg topologies: Each gets as many faults as the others. One that no kind can strike is left
        out.
    :arg kinds: Each kind of fault by its name; used equally often.
    :arg fast_paths: Used in turn on each topology; the faults do not depend on them.
    :arg per_trial: Number of faults that strike one flow, at most.
    :raises ValueError: If no kind can strike any of the topologies.
    """
    topologies = [each for each in topologies if any(_fits(kinds[kind], each) for kind in kinds)]
    if not topologies:
        raise ValueError("no kind can strike a topology")
    source = random.Random(f"{seed} {faults} {topologies} {sorted(kinds)} {per_trial}")
    rounds = _Rounds(kinds, per_trial, source)
    orders = [
        _Order(rounds.begun_at(n / len(topologies)), kinds, topology)
        for n, topology in enumerate(topologies)
    ]
    flows, struck = [0] * len(topologies), [0] * len(topologies)
    plans: list[Plan] = []
    while faults > 0:
        place = struck.index(min(struck))
        paths = fast_paths[(flows[place] + place) % len(fast_paths)]
        chosen, servers = orders[place].take(min(per_trial, faults))
        strikes = tuple(_planned_fault(kind, kinds[kind].moments, source) for kind in chosen)
        plans.append(Plan(len(plans), topologies[place], servers, paths, strikes))
        flows[place] += 1
        struck[place] += len(strikes)
        faults -= len(strikes)
    return Schedule(seed, tuple(plans))


def _fits(kind: Kind, topology: str) -> bool:
    """Tell whether a kind can strike any server that a topology can have."""
    return bool(_servers_of(kind, topology))


def _servers_of(kind: Kind, topology: str) -> list[str]:
    several = TOPOLOGIES[topology].processes > 1
    return [each for each in kind.servers if not (several and each == _ONE_PROCESS)]


class _Rounds:
    """Rounds of all kinds, each in another order; every topology goes through all rounds.

    The topologies begin at different places of a round, so that a schedule of few faults has all
    kinds, too. Within a round, kinds that need the same servers come together, mixed with kinds
    that need none in particular: a flow on a Redis Cluster, which is slow to start, has several.
    """

    def __init__(self, kinds: Mapping[str, Kind], together: int, source: random.Random) -> None:
        self._kinds = kinds
        self._together = together
        self._source = source
        self._rounds: list[list[str]] = []

    def begun_at(self, share: float) -> Iterator[str]:
        """Go through the rounds for ever.

        :arg share: From 0 to 1: where in each round to begin.
        """
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
        # First the server that not every topology can have: in a schedule of few faults, not all
        # topologies come to the end of a round.
        *others, last = SERVERS
        order = (last, *self._source.sample(others, len(others)))
        return [kind for name in order for kind in hands[name]]

    def _dealt(self) -> dict[str, list[str]]:
        """Deal all kinds to servers; servers other than the single one get a flow full of kinds."""
        one, *others = SERVERS
        hands: dict[str, list[str]] = {name: [] for name in SERVERS}
        free: list[str] = []
        for kind in self._source.sample(sorted(self._kinds), len(self._kinds)):
            servers = self._kinds[kind].servers
            (hands[servers[0]] if len(servers) == 1 else free).append(kind)
        for name in (name for name in others if hands[name]):
            fit = [kind for kind in free if name in self._kinds[kind].servers]
            fit.sort(key=lambda kind: self._kinds[kind].damages)  # a flow takes one of those
            for kind in fit[: max(0, self._together - len(hands[name]))]:
                hands[name].append(kind)
                free.remove(kind)
        hands[one] += free
        return hands


class _Order:
    """The kinds in the order of one topology.

    A kind that can't share the servers of a flow waits for the next flow.
    """

    def __init__(self, coming: Iterator[str], kinds: Mapping[str, Kind], topology: str) -> None:
        self._servers = {name: _servers_of(kind, topology) for name, kind in kinds.items()}
        self._coming = (name for name in coming if self._servers[name])
        self._kinds = kinds
        self._waiting: deque[str] = deque()

    def take(self, size: int) -> tuple[list[str], str]:
        """Take the next kinds that can all strike the same servers, up to the second damage.

        :arg size: How many, at most.
        :returns: The kinds, and the first of :data:`SERVERS` that all of them can strike.
        """
        chosen: list[str] = []
        passed: list[str] = []
        servers: Sequence[str] = SERVERS
        while len(chosen) < size:
            kind = self._waiting.popleft() if self._waiting else next(self._coming)
            shared = [each for each in servers if each in self._servers[kind]]
            second = self._damages(kind) and any(map(self._damages, chosen))
            if shared and not second:
                chosen.append(kind)
                servers = shared
                continue
            passed.append(kind)
            if second:
                break
        self._waiting.extendleft(reversed(passed))
        return sorted(chosen, key=self._damages, reverse=True), servers[0]

    def _damages(self, kind: str) -> bool:
        return self._kinds[kind].damages


def _planned_fault(kind: str, moments: Sequence[str], source: random.Random) -> PlannedFault:
    return PlannedFault(
        kind=kind,
        moment=source.choice(moments),
        target=source.randrange(6),
        seconds=round(source.uniform(_LEAST_SECONDS, _MOST_SECONDS), 3),
        offset=round(source.random(), 3),
        size=round(source.random(), 3),
    )
