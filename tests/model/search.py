"""The search: every interleaving of a scenario, breadth first: a counterexample is a shortest one.

What must hold, whatever is interleaved:

exact       a start restores exactly the deltas below its resume epoch, each partition's in order
kept        the resume epoch is above all that was committed, unless Redis lost its tail since
fenced      once a manifest is written, no command of an older writer is taken
consistent  a cell that no fold is under way in holds exactly what it says it has applied
single      one start runs on a manifest: the one that wrote it
truthful    a start says that Redis lost something only where it did
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .replicator import Call, Move, Replicator
from .start import RESTORE, Start
from .store import Broken, Store, Writer, founded

Process = Replicator | Start


@dataclass(frozen=True)
class Scenario:
    """Who does what, and what may go wrong.

    :arg name: In words.
    :arg partitions: Of the flow: one replicator each.
    :arg epochs: That the replicators of the first start ship.
    :arg starts: Names of the starts that take over.
    :arg late: How many commands may outlive their connection.
    :arg loses_tail: Nodes that may once go back to an earlier moment together.
    :arg forgets_starts: Whether that moment may lie before the first bump, whatever was confirmed
        since: a file without its tail, or another primary; else what a start wrote stays.
    """

    name: str
    partitions: int = 1
    epochs: int = 1
    new_epochs: int = 1
    starts: tuple[str, ...] = ("A",)
    late: int = 0
    loses_tail: tuple[str, ...] = ()
    forgets_starts: bool = False
    order: tuple[str, ...] = ()


class System(NamedTuple):
    store: Store
    processes: tuple[Process, ...]
    late: tuple[Call, ...] = ()
    lates: int = 0
    replica: Store | None = None
    failed_over: bool = False
    struck: tuple[str, ...] = ()
    committed: int = 1


class Step(NamedTuple):
    label: str
    after: System
    wrong: str = ""


@dataclass
class Outcome:
    """What a search found.

    :arg trace: The moves of the shortest counterexample; empty where there is none.
    """

    scenario: str
    states: int = 0
    seconds: float = 0.0
    wrong: str = ""
    trace: list[str] = field(default_factory=list)
    ends: set[tuple[str, ...]] = field(default_factory=set)


def committed(store: Store) -> int:
    """Epoch below which everything is committed, as of the manifest."""
    manifest = store.manifest
    parts = [p.epoch for at, _, p in store.partitions if at == manifest.generation]
    return min(parts) if len(parts) == len(store.cell.lanes) else manifest.resume_epoch


def begin(scenario: Scenario) -> System:
    numbers = range(scenario.partitions)
    old = [Replicator(Writer("old", 1), n, 1, scenario.epochs) for n in numbers]
    order = {"todo": scenario.order} if scenario.order else {}
    starts = [Start(name, epochs=scenario.new_epochs, **order) for name in scenario.starts]
    return System(founded(scenario.partitions), (*old, *starts))


def steps(system: System, scenario: Scenario, broken: Broken) -> Iterator[Step]:
    for index, process in enumerate(system.processes):
        for move in process.moves(system.store, broken):
            yield _taken(system, index, process, move, broken, scenario)
            if move.call is not None and system.lates < scenario.late:
                yield from _broken_off(system, index, process, move)
    for index, call in enumerate(system.late):
        verdict, store = call.run(system.store, broken)
        rest = system.late[:index] + system.late[index + 1 :]
        label = f"late, of {call.who.start}: {call.script}"
        after = _on(system, store, late=rest)
        yield Step(label, after, _stale(system, call, verdict) or _inconsistent(after))
    if scenario.loses_tail and not system.failed_over:
        yield from _failover(system, scenario)


def _on(system: System, store: Store, **changes: object) -> System:
    if store is system.store:
        return system._replace(**changes)
    now = max(system.committed, committed(store))
    return system._replace(store=store, committed=now, **changes)


def _put(system: System, index: int, process: object) -> tuple[Process, ...]:
    return (*system.processes[:index], process, *system.processes[index + 1 :])


def _name(process: Process) -> str:
    if isinstance(process, Start):
        return f"start {process.name}"
    return f"replicator {process.number} of {process.who.start}"


def _taken(
    system: System, index: int, process: Process, move: Move, broken: Broken, scenario: Scenario
) -> Step:
    processes = (*_put(system, index, move.process), *move.spawned)
    after = _on(system, move.store, processes=processes)
    confirms = isinstance(process, Start) and "a start is on the replicas" not in broken
    confirms = confirms and not scenario.forgets_starts
    if confirms and move.store is not system.store:
        after = after._replace(replica=None)  # on all replicas in step before it goes on
    if move.store.manifest.generation != system.store.manifest.generation:
        after = after._replace(committed=committed(move.store))
    wrong = _stale(system, move.call, move.verdict) if move.call else ""
    wrong = wrong or _wrong_start(system, move) or _inconsistent(after)
    said = "" if move.verdict == "ok" else f" → {move.verdict}"
    return Step(f"{_name(process)}: {move.label}{said}", after, wrong)


def _broken_off(system: System, index: int, process: Process, move: Move) -> Iterator[Step]:
    """The connection dies: the command has come through, or it comes later, or never."""
    processes = _put(system, index, move.lost)
    label = f"{_name(process)}: {move.label}, but the connection dies"
    assert move.call is not None
    sent = _on(system, move.store, processes=processes, lates=system.lates + 1)
    yield Step(f"{label} after it", sent, _inconsistent(sent))
    late = tuple(sorted((*system.late, move.call)))
    held = system._replace(processes=processes, late=late, lates=system.lates + 1)
    yield Step(f"{label} before it", held)


def _failover(system: System, scenario: Scenario) -> Iterator[Step]:
    if system.replica is None:
        if scenario.forgets_starts and system.store.counter.generation > 1:
            return
        yield Step("the replica stops following", system._replace(replica=system.store))
        return
    back = {
        "manifest": ("counter", "manifest"),
        "cell": ("cell",),
        "partitions": ("partitions",),
    }
    names = [name for node in scenario.loses_tail for name in back[node]]
    store = system.store._replace(**{name: getattr(system.replica, name) for name in names})
    lost = system._replace(
        store=store,
        replica=None,
        failed_over=True,
        committed=committed(store),
        # What a writer that they have shut out commits after that is nobody's.
        struck=tuple(p.name for p in system.processes if isinstance(p, Start) and p.generation),
    )
    yield Step("the tail is lost", lost)


# --- What must hold ------------------------------------------------------------------------------


def _stale(system: System, call: Call, verdict: str) -> str:
    manifest = system.store.manifest
    runs = [run[0] for run in manifest.runs]
    if verdict != "ok" or call.script in ("unlink", "settle", "write the manifest"):
        return ""
    if system.failed_over:  # the fence may have gone with the tail; what counts is what is restored
        return ""
    if call.who.generation < manifest.generation or (
        call.who.generation == manifest.generation and call.who.start != runs[-1]
    ):
        return f"fenced: {call.script} of generation {call.who.generation} is taken"
    return ""


def _wrong_start(system: System, move: Move) -> str:
    start = move.process
    if not isinstance(start, Start):
        return ""
    if start.end == "lost" and not system.failed_over:
        return "truthful: it says that Redis lost something"
    if move.call is not None and move.call.script == "write the manifest" and move.verdict == "ok":
        if start.epoch < system.committed and start.name not in system.struck:
            return f"kept: it resumes at {start.epoch}, committed was all below {system.committed}"
        return ""
    if move.label != RESTORE or start.end != "runs":
        return ""
    if system.store.manifest.runs[-1][0] != start.name and not system.failed_over:
        return "single: it runs without a manifest"
    assert start.old is not None
    right = start.old.delta(start.epoch - 1)
    found = {delta for pair in system.store.cell.keys for delta in pair}
    return "" if found == {right} else f"exact: {found} instead of {right} is restored"


def _inconsistent(after: System) -> str:
    manifest, cell = after.store.manifest, after.store.cell
    if cell.writer.generation != manifest.generation:
        return ""
    for number, pair in enumerate(cell.keys):
        if cell.marks[number]:
            continue
        right = manifest.delta(cell.applied(number))
        if set(pair) != {right}:
            return f"consistent: partition {number} of the cell holds {pair} instead of {right}"
    return ""


# --- The search ----------------------------------------------------------------------------------


def explore(scenario: Scenario, broken: Broken = frozenset(), most: int = 10**6) -> Outcome:
    """Visit every reachable state, until something is wrong.

    :arg most: States; more is an error.
    """
    began = time.perf_counter()
    first = begin(scenario)
    came: dict[System, tuple[System, str] | None] = {first: None}
    level, outcome = [first], Outcome(scenario.name)
    while level and not outcome.wrong:
        following = []
        for system in level:
            quiet = True
            for step in steps(system, scenario, broken):
                quiet = False
                if step.wrong:
                    outcome.wrong = step.wrong
                    outcome.trace = [*_trace(came, system), step.label]
                    break
                if step.after not in came:
                    came[step.after] = (system, step.label)
                    following.append(step.after)
            if quiet:
                outcome.ends.add(tuple(p.end for p in system.processes))
            if outcome.wrong:
                break
        assert len(came) < most, f"more than {most} states"
        level = following
    outcome.states = len(came)
    outcome.seconds = time.perf_counter() - began
    return outcome


def _trace(came: dict[System, tuple[System, str] | None], system: System) -> list[str]:
    labels = []
    while (back := came[system]) is not None:
        system, label = back
        labels.append(label)
    return labels[::-1]
