"""A trial strikes a real flow and judges what it left; its report has everything in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bytewax_redis_state.chaos.campaign import Campaign, CampaignReport, usable_faults
from bytewax_redis_state.chaos.faults import DEFAULT_FAULTS, FAULTS
from bytewax_redis_state.chaos.flow_process import wait_until
from bytewax_redis_state.chaos.schedule import TOPOLOGIES, make_schedule
from bytewax_redis_state.chaos.servers.single_server import SingleServer
from bytewax_redis_state.chaos.system import Program, SystemUnderTest
from bytewax_redis_state.chaos.trial import InjectedFault, Outcome, Trial
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

COMMAND = [sys.executable, "-c", "from bytewax_redis_state.cli.main import main; exit(main())"]


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "bench", "chaos", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=3 * BOUND_SECONDS
    )


def test_a_struck_flow_is_right_and_the_report_says_how_it_was_struck(tmp_path):
    file = tmp_path / "report.json"
    kinds = ("--fault", "kill-all", "--fault", "kill-redis")
    place = ("--topology", "1-worker", "--json", str(file))
    done = bench("--faults", "2", "--seed", "5", *kinds, *place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run 0, 1-worker" in done.stderr
    assert "0 wrong answers, 0 with findings, 0 stuck" in done.stdout
    report = json.loads(file.read_text())
    assert (report["seed"], report["ok"], report["rival"]) == (5, True, "ours")
    assert report["totals"]["runs"] == 1
    assert report["totals"]["faults"] == 2
    (run,) = report["runs"]
    assert {strike["kind"] for strike in run["plan"]["strikes"]} == {"kill-all", "kill-redis"}
    assert [struck["kind"] for struck in run["struck"]] == [
        strike["kind"] for strike in run["plan"]["strikes"]
    ]
    assert run["starts"] >= 2
    assert run["compared"] > 1000
    assert any(ending["code"] == -9 for ending in run["endings"])


def test_a_wrong_answer_is_told_with_the_way_to_replay_it(tmp_path):
    kinds = {"cut": FAULTS["cut"]}
    report = CampaignReport(make_schedule(3, 12, ["1-worker"], kinds), "ours", {})

    def judged(plan, folder, given_up):
        struck = [InjectedFault("cut", 1.0, plan.number, True, False, 2.0)] * 6
        return Outcome(plan, struck, wrong=["state of balance: 1 of 9 wrong"] * plan.number)

    Campaign(tmp_path, judged, jobs=2, seen=lambda outcome: None).run(report)
    assert not report.ok
    assert [outcome.plan.number for outcome in report.bad] == [1]
    assert report.totals() == {
        "runs": 2,
        "faults": 12,
        "unshipped": 6,
        "mid_fold": 12,
        "mid_start": 0,
        "damages": 0,
        "refused": 0,
        "values_compared": 0,
        "wrong_answers": 1,
        "findings": 0,
        "stuck": 0,
    }
    cell = report.table()["cut"]["1-worker"]
    assert (cell.runs, cell.faults, cell.bad) == (2, 12, 1)


def test_what_this_machine_lacks_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr("bytewax_redis_state.chaos.faults.faketime_library", lambda: None)
    usable, left_out = usable_faults([])
    assert "clock" not in usable
    assert "libfaketime" in left_out["clock"]
    assert not os.environ.get("CI") or "disk" in usable


@pytest.mark.parametrize(("kind", "seed"), [("sentinel-failover", 8), ("cluster-failover", 3)])
def test_after_a_failover_the_flow_is_right_and_the_report_has_its_kind(tmp_path, kind, seed):
    file = tmp_path / "report.json"
    place = ("--topology", "1-worker", "--json", str(file))
    # With these seeds the replica is stopped before, so that writes are lost.
    done = bench("--faults", "1", "--seed", str(seed), "--fault", kind, *place)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    (run,) = report["runs"]
    assert run["plan"]["servers"] == kind.partition("-")[0]
    assert run["plan"]["strikes"][0]["size"] >= 0.5
    assert run["limit"] > 1000  # from 400 on: it had something to read while it was struck
    assert report["table"][kind]["1-worker"] == {"runs": 1, "faults": 1, "bad": 0}


@pytest.mark.parametrize(
    ("kind", "said"), [("delete-cell", "is missing"), ("delete-manifest", "has no manifest")]
)
def test_a_flow_that_is_refused_after_damage_names_it_and_begins_again(tmp_path, kind, said):
    file = tmp_path / "report.json"
    kinds = {kind: FAULTS[kind]}
    while_down = (
        seed
        for seed in range(100)
        if make_schedule(seed, 1, ["1-worker"], kinds).plans[0].strikes[0].offset >= 0.5
    )
    seed = next(while_down)
    place = ("--topology", "1-worker", "--json", str(file))
    done = bench("--faults", "1", "--seed", str(seed), "--fault", kind, *place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused and named, then right" in done.stderr
    assert "records were damaged 1 times, and the flow was then refused 1 times: " in done.stdout
    report = json.loads(file.read_text())
    assert (report["totals"]["damages"], report["totals"]["refused"]) == (1, 1)
    (run,) = report["runs"]
    (refusal,) = run["refusals"]
    assert refusal["named"]
    assert said in refusal["said"]
    assert refusal["done"] == run["struck"][0]["done"]
    assert refusal["way_out"].startswith("deleted the keys of the flow, and began again")
    assert run["compared"] > 1000


def test_a_flow_on_an_embedded_server_is_struck_too(tmp_path):
    kinds = {"kill-all": replace(FAULTS["kill-all"], servers=("embedded",))}
    plan = make_schedule(4, 2, ["1-worker"], kinds).plans[0]
    outcome = Trial(plan, tmp_path / "trial", "own", Program()).run()
    assert outcome.ok, outcome
    assert outcome.plan.servers == "embedded"
    assert outcome.compared > 1000


def test_an_embedded_server_alone_needs_a_flow_of_one_process():
    done = bench("--faults", "1", "--fault", "kill-keeper", "--topology", "2-processes")
    assert done.returncode == 2
    assert "add --topology 1-worker" in done.stderr


def test_a_server_program_without_sentinel_or_cluster_is_told_in_one_line(tmp_path, monkeypatch):
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho Bad directive\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    usable, left_out = usable_faults([])
    assert "kill-redis" in usable
    for kind in ("sentinel-failover", "sentinel-order"):
        assert left_out[kind].startswith(f"{program} can't be run as a sentinel")
    for kind in ("cluster-failover", "cluster-order"):
        assert left_out[kind].startswith(f"{program} can't be run as a cluster")
    done = bench("--faults", "1", "--fault", "sentinel-failover")
    assert done.returncode == 2
    assert "no fault of the chosen kinds can be injected" in done.stderr
    assert "can't be run as a sentinel" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_page_of_faults_has_each_kind_and_says_which_strike_only_when_chosen():
    page = Path("docs/faults.md").read_text()
    _, _, listed = page.partition("## Only when chosen")
    only, _, _ = listed.partition("\n## ")
    for kind, fault in FAULTS.items():
        assert f"`{kind}`" in page
        assert (f"`{kind}`" in only) is bool(fault.not_yet)
    assert bool(only) is (len(DEFAULT_FAULTS) < len(FAULTS))
    assert set(usable_faults([])[0]) <= set(DEFAULT_FAULTS)


def test_in_ci_no_kind_of_fault_is_left_out():
    if not os.environ.get("CI"):
        pytest.skip("only CI has to have everything")
    assert usable_faults([])[1] == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--faults", "0"), "--faults is 0"),
        (
            ("--faults", "12", "--run", "2", "--fault", "cut"),
            "--run is 2, and the schedule has 2 runs",
        ),
    ],
)
def test_options_without_sense_are_refused(options, words):
    done = bench(*options)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("fast_paths", "ways"),
    [("on", ["true"] * 3), ("off", ["false"] * 3), ("in-turn", ["true", "false", "true"])],
)
def test_each_start_of_a_cluster_has_fast_paths_as_planned(
    fast_paths, ways, server_binary, tmp_path
):
    says = (
        "import os, time; print(os.environ['BYTEWAX_REDIS_FAST_PATHS'], flush=True); time.sleep(60)"
    )
    system = SystemUnderTest(
        TOPOLOGIES["2-processes"],
        tmp_path / "system",
        SingleServer(tmp_path / "redis"),
        "fast-paths",
        Program((sys.executable, "-c", says)),
        fast_paths=fast_paths,
    )
    said = []

    def all_have_said() -> bool:
        return all(process.out for process in system.execution.processes)

    def note() -> None:
        wait_until(all_have_said, "both processes say what they were given")
        said.append({process.out.strip() for process in system.execution.processes})

    try:
        system.open()
        note()
        system.execution.kill_groups()  # a supervisor starts them again, one after the other
        system.tend()
        note()
        system.execution[0].kill_group()  # the other one lives on
        system.tend()
        note()
        system.execution.kill_groups()
        system.tend()
        note()
    finally:
        system.close()
    assert said[1] == said[2]
    assert [said[0], said[1], said[3]] == [{way} for way in ways]
