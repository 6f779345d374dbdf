"""A seed gives the whole schedule: what failed can be replayed."""

from __future__ import annotations

from collections import Counter

import pytest

from bytewax_redis_state.chaos.faults import FAULTS
from bytewax_redis_state.chaos.schedule import (
    FAST_PATHS,
    MOMENTS,
    SERVERS,
    TOPOLOGIES,
    make_schedule,
)


def schedule(seed: int, faults: int = 92):
    return make_schedule(seed, faults, list(TOPOLOGIES), FAULTS)


def test_a_seed_gives_the_same_schedule_and_another_one_another():
    assert schedule(7) == schedule(7)
    assert schedule(7).plans != schedule(8).plans


def test_a_schedule_has_as_many_faults_as_were_wanted():
    assert [schedule(1, count).faults for count in (1, 6, 7, 92)] == [1, 6, 7, 92]


EMBEDDED = {kind for kind, fault in FAULTS.items() if list(fault.servers) == ["embedded"]}


def test_each_kind_strikes_each_topology_equally_often():
    made = schedule(3, 8 * 3 * len(FAULTS))
    struck = Counter((strike.kind, plan.topology) for plan in made.plans for strike in plan.strikes)
    assert len(struck) == len(FAULTS) * len(TOPOLOGIES) - 2 * len(EMBEDDED)
    assert set(struck.values()) <= {5, 6, 7}


def test_an_embedded_server_has_a_flow_of_one_process():
    plans = [plan for plan in schedule(3, 600).plans if plan.servers == "embedded"]
    assert plans
    assert {plan.topology for plan in plans} == {"1-worker", "2-workers"}
    with pytest.raises(ValueError, match="no kind"):
        make_schedule(1, 6, ["2-processes"], {kind: FAULTS[kind] for kind in EMBEDDED})
    kinds = {kind: FAULTS[kind] for kind in EMBEDDED}
    left = make_schedule(1, 12, list(TOPOLOGIES), kinds).plans
    assert {plan.topology for plan in left} == {"1-worker", "2-workers"}


def test_damage_comes_first_and_once():
    """A flow that is refused after it begins again: what struck it before would not be seen."""
    damaged = 0
    for plan in schedule(5, 600).plans:
        damages = [FAULTS[strike.kind].damages for strike in plan.strikes]
        assert not any(damages[1:])
        damaged += damages[0]
    assert damaged > 100


def test_each_topology_goes_through_fast_paths_on_off_and_in_turn():
    for topologies in (list(TOPOLOGIES), list(TOPOLOGIES)[:3], ["1-worker"]):
        plans = make_schedule(9, 180, topologies, FAULTS).plans
        met = Counter((plan.topology, plan.fast_paths) for plan in plans)
        assert len(met) == len(topologies) * len(FAST_PATHS)
        for topology in topologies:
            times = [met[topology, way] for way in FAST_PATHS]
            assert max(times) - min(times) <= 1


def test_the_faults_are_the_same_whatever_the_fast_paths():
    plain = make_schedule(7, 92, list(TOPOLOGIES), FAULTS, fast_paths=["off"])
    assert {plan.fast_paths for plan in plain.plans} == {"off"}
    assert [plan.strikes for plan in plain.plans] == [plan.strikes for plan in schedule(7).plans]


def test_few_faults_have_all_kinds_too():
    for seed in range(50):
        made = schedule(seed, 2 * len(FAULTS))
        kinds = {strike.kind for plan in made.plans for strike in plan.strikes}
        assert kinds == FAULTS.keys()


def test_all_faults_of_a_flow_can_strike_its_servers():
    plans = schedule(5, 600).plans
    assert {plan.servers for plan in plans} == set(SERVERS)
    for plan in plans:
        assert all(plan.servers in FAULTS[strike.kind].servers for strike in plan.strikes)


def test_flows_that_need_several_servers_have_their_faults_together():
    """A cluster is slow to start; what it was started for comes with what can strike it, too."""
    plans = [plan for plan in schedule(6, 600).plans if plan.servers == "cluster"]
    assert len(plans) < 600 / 6 / 3
    mixed = [{strike.kind for strike in plan.strikes} for plan in plans]
    processes = {kind for kind in FAULTS if kind.startswith(("kill-", "stop-"))}
    assert any("cluster-failover" in kinds and kinds & processes for kinds in mixed)


def test_who_can_not_share_servers_waits_and_is_not_forgotten():
    kinds = {name: FAULTS[name] for name in ("sentinel-order", "cluster-order", "cut")}
    plans = make_schedule(8, 90, ["1-worker"], kinds).plans
    struck = Counter(strike.kind for plan in plans for strike in plan.strikes)
    assert struck.keys() == kinds.keys()
    assert max(struck.values()) - min(struck.values()) <= 6


def test_a_fault_strikes_only_when_it_may():
    strikes = [strike for plan in schedule(4, 600).plans for strike in plan.strikes]
    assert {strike.moment for strike in strikes} == set(MOMENTS)
    assert all(strike.moment in FAULTS[strike.kind].moments for strike in strikes)
