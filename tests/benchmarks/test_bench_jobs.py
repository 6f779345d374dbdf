"""The benchmark runs, tells right from wrong results, and keeps what it has."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from bytewax.testing import run_main

from benchmarks import contest as contests
from benchmarks.contest import Contender, Contest, FailedRunError, TooSlowError, hold
from benchmarks.flow_run import NONE, OURS, RIVALS, FlowRun, place_for, run_apart
from benchmarks.flows import Load, Tally, WrongResultError, check_sums, sums
from benchmarks.jobs import JOBS, Extent
from benchmarks.results import Figure, Results, Run
from benchmarks.rows import rows, text_of
from benchmarks.stored_sums import require_stored_sums
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.cli.main import main

SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
TINY = ("--scale", "0.002", "--pairs", "1")


@pytest.fixture(autouse=True)
def _keep_signal_handlers():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Silent:
    """Remembers whose turn it was."""

    def __init__(self):
        self.turns = []

    def begun(self, contest, turns):
        self.planned = turns

    def turn(self, contender, number, of):
        self.turns.append(contender)

    def ran(self, contender, run):
        pass


def contest(values, figures=(), runs=5):
    """Rivals that measure what they are told, one value after the other."""

    def play(name):
        value = values[name].pop(0)
        if isinstance(value, Exception):
            raise value
        return Run(value)

    @contextmanager
    def contenders():
        yield [Contender(name, lambda name=name: play(name)) for name in values]

    plan = {name: (1.0, min(runs, len(values[name]))) for name in values}
    return Contest("x", "test", "a test", contenders, plan, figures)


def test_rivals_take_turns_and_a_slow_one_runs_less_often():
    witness = Silent()
    line = hold(contest({"a": [1.0, 2.0, 3.0], "b": [4.0]}), None, witness)
    assert witness.turns == ["a", "b", "a", "a"]
    assert witness.planned == 4
    assert line.values("a") == [1.0, 2.0, 3.0]
    assert line.median("a") == 2.0


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    made = [contests.times_as_fast("ours", "stock", 3.0)]
    line = hold(
        contest({"stock": [10.0, 20.0, 90.0], "ours": [5.0, 5.0, 30.0]}, made), None, Silent()
    )
    (figure,) = line.figures
    assert figure.value == 3.0  # of 2, 4 and 3; the ratio of medians is 4
    assert figure.met is True


def test_a_rate_and_a_growth_have_their_ratio_the_other_way_round():
    values = {"base": [2.0], "ours": [1.0]}
    made = [contests.share("ours", "base", 0.7), contests.growth("ours", "base", 1.5)]
    share, growth = hold(contest(values, made), None, Silent()).figures
    assert (share.value, share.met) == (0.5, False)
    assert (growth.value, growth.met) == (0.5, True)


def test_a_rival_that_takes_too_long_is_given_up_and_the_rest_goes_on():
    made = [contests.times_as_fast("ours", "stock", 2.0)]
    values = {"stock": [TooSlowError("a run took longer than 9 s"), 1.0], "ours": [1.0, 1.0]}
    witness = Silent()
    line = hold(contest(values, made), None, witness)
    assert witness.turns == ["stock", "ours", "ours"]
    assert line.median("stock") is None
    assert line.notes == ["stock was given up: a run took longer than 9 s"]
    assert line.figures[0].value is None
    assert [row.median for row in rows(line)] == ["given up", "1.00 s"]


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure("ours", "× stock", 2.614, 2.5), "2.61× stock (≥ 2.50 ✓)"),
        (Figure("ours", "× stock", 2.4, 2.5), "2.40× stock (≥ 2.50 ✗)"),
        (Figure("ours", "s", 5.0, 4.0, at_most=True), "5.00 s (≤ 4.00 ✗)"),
        (Figure("ours", "s", None, 4.0, at_most=True), "– s (≤ 4.00 ?)"),
        (Figure("ours", "keys/s", 500_000.0), "500,000 keys/s"),
    ],
)
def test_a_target_stands_beside_its_figure(figure, text):
    assert text_of(figure) == text


def test_results_come_back_from_their_file_and_a_line_takes_the_place_of_the_old_one(tmp_path):
    made = [contests.times_as_fast("ours", "stock", 2.0)]
    old = hold(contest({"stock": [9.0], "ours": [1.0]}, made), None, Silent())
    new = hold(contest({"stock": [4.0], "ours": [1.0]}, made), None, Silent())
    results = Results({"cores": 2})
    results.put(old)
    results.write(tmp_path / "results.json")
    read = Results.read(tmp_path / "results.json")
    assert read == results
    read.put(new)
    assert read.lines == [new]
    assert list(tmp_path.iterdir()) == [tmp_path / "results.json"]


def test_a_tally_refuses_an_item_that_is_missing_or_there_twice():
    load, tally = Load(events=3_000, keys=7, hot=0, epoch=1.0), Tally()
    run_main(sums(load, tally))
    check_sums(load, tally)
    for change in (1, -1):
        tally.totals[0]["key-0000003"] += change
        with pytest.raises(WrongResultError, match="sums: "):
            check_sums(load, tally)
        tally.totals[0]["key-0000003"] -= change


def test_a_run_is_timed_from_its_first_item_to_the_drained_end(redis_url):
    load = Load(events=4_000, keys=50, hot=0, epoch=0.5)
    with place_for(OURS) as place:
        told = run_apart(FlowRun(OURS, "sums", load, redis_url, place), BOUND_SECONDS)
    assert told["started"] < told["begun"] < told["first_out"] < told["ended"]
    assert told["seconds"] == told["ended"] - told["begun"]


def test_a_run_whose_state_in_redis_is_wrong_is_refused(redis_url):
    load = Load(events=4_000, keys=50, hot=0, epoch=0.5)
    with place_for(OURS) as place:
        run_apart(FlowRun(OURS, "sums", load, redis_url, place), BOUND_SECONDS)
        require_stored_sums(redis_url, place, load)
        with pytest.raises(WrongResultError, match="sums in Redis: 4,000 came out, 4,001 went in"):
            require_stored_sums(redis_url, place, Load(4_001, 50, 0, 0.5))


def test_a_run_beyond_its_bound_is_ended():
    load = Load(events=50_000_000, keys=50, hot=0, epoch=0.5)
    with pytest.raises(TooSlowError, match="longer than 2 s"):
        run_apart(FlowRun(NONE, "sums", load), 2)
    assert not children()


def children():
    """Processes whose parent is this one and that still run something."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and b"flow_run" in (path.parent / "cmdline").read_bytes():
            found.append(path.parent.name)
    return found


def test_a_run_that_fails_says_why(tmp_path):
    with pytest.raises(FailedRunError, match="No such file"):
        run_apart(FlowRun(NONE, str(tmp_path / "none.py"), Load(0, 0, 0, 0.5)), BOUND_SECONDS)


def test_the_command_prints_a_table_and_writes_the_file(tmp_path, capfd):
    path = tmp_path / "results.json"
    assert main(["bench", "jobs", *TINY, "--job", "a", "--into", str(path)]) == 0
    out, err = capfd.readouterr()
    for rival in RIVALS:
        assert rival in out
    assert "(≥ 2.50 at full size)" in out
    assert "(a) about" in err
    (line,) = json.loads(path.read_text())["lines"]
    assert list(line["runs"]) == list(RIVALS)
    assert all(run["value"] > 0 for runs in line["runs"].values() for run in runs)


def test_an_interrupted_benchmark_keeps_the_lines_that_it_has_and_leaves_nothing_running(
    tmp_path, eventually
):
    path = tmp_path / "results.json"
    # Job (a) is over soon; (h) rests for a second in each run.
    command = [SCRIPT, "bench", "jobs", *TINY, "--job", "a", "--job", "h", "--into", path]
    mark = f"BENCH_MARK={uuid4()}"
    running = subprocess.Popen(
        command,
        env={**os.environ, "BENCH_MARK": mark.partition("=")[2]},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    eventually(lambda: path.exists() or running.poll() is not None)
    assert marked(mark)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=BOUND_SECONDS)
    assert running.returncode == 130, err
    assert [line["job"] for line in json.loads(path.read_text())["lines"]] == ["a"]
    eventually(lambda: not marked(mark))


def marked(mark):
    """Processes with this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.long
def test_every_job_runs_on_tiny_sizes(tmp_path):
    path = tmp_path / "results.json"
    command = [SCRIPT, "bench", "jobs", *TINY, "--json", path]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=3 * BOUND_SECONDS
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(path.read_text())["lines"]
    assert {line["job"] for line in lines} == set(JOBS)
    assert len(lines) == len(Extent().contests())


def test_the_jobs_are_listed(capsys):
    assert main(["bench", "jobs", "--list"]) == 0
    assert [line[0] for line in capsys.readouterr().out.splitlines()] == list(JOBS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--job", "z"), "there is no job 'z'"),
        (("--pairs", "0"), "--pairs is 0"),
        (("--scale", "2"), "--scale is 2.0"),
        (("--json", "a", "--into", "b"), "--json and --into are both given"),
    ],
)
def test_what_can_t_be_meant_is_refused_in_one_line(options, message, capsys):
    assert main(["bench", "jobs", *options]) == 2
    assert message in capsys.readouterr().err


def test_all_jobs_together_take_about_an_hour():
    assert sum(contest.estimate(None) for contest in Extent().contests()) < 65 * 60
    assert {contest.job for contest in Extent().contests()} == set(JOBS)
