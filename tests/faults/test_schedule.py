"""A seed gives the whole schedule: what failed can be replayed."""

from __future__ import annotations

from collections import Counter

from bytewax_redis_state.chaos.faults import FAULTS
from bytewax_redis_state.chaos.schedule import MOMENTS, TOPOLOGIES, make_schedule


def schedule(seed: int, faults: int = 92):
    return make_schedule(seed, faults, list(TOPOLOGIES), FAULTS)


def test_a_seed_gives_the_same_schedule_and_another_one_another():
    assert schedule(7) == schedule(7)
    assert schedule(7).plans != schedule(8).plans


def test_a_schedule_has_as_many_faults_as_were_wanted():
    assert [schedule(1, count).faults for count in (1, 6, 7, 92)] == [1, 6, 7, 92]


def test_each_kind_strikes_each_topology_equally_often():
    made = schedule(3, 8 * 3 * len(FAULTS))
    struck = Counter((strike.kind, plan.topology) for plan in made.plans for strike in plan.strikes)
    assert len(struck) == len(FAULTS) * len(TOPOLOGIES)
    assert set(struck.values()) <= {5, 6, 7}


def test_few_faults_have_all_kinds_too():
    made = schedule(3, 2 * len(FAULTS))
    kinds = Counter(strike.kind for plan in made.plans for strike in plan.strikes)
    assert kinds.keys() == FAULTS.keys()


def test_a_fault_strikes_only_when_it_may():
    strikes = [strike for plan in schedule(4, 600).plans for strike in plan.strikes]
    assert {strike.moment for strike in strikes} == set(MOMENTS)
    assert all(strike.moment in FAULTS[strike.kind].moments for strike in strikes)
