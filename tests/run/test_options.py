"""The runner has all that bytewax.run has, and its own options do what they say."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import bytewax.run
import pytest

from bytewax_redis_state.run import main, parser

from .conftest import Sums, environment, expected, finished

FAST = ("-s", "0.1")
STOCK = Path(bytewax.run.__file__).read_text()
NOT_OURS = {"-r", "--recovery-directory", "-b", "--backup-interval"}
NOT_OUR_ENV = {"BYTEWAX_RECOVERY_DIRECTORY", "BYTEWAX_RECOVERY_BACKUP_INTERVAL"}


def test_every_option_of_the_stock_runner_is_there():
    stock = set(re.findall(r'^ +"(--?[a-z-]+)",$', STOCK, re.MULTILINE)) - NOT_OURS
    assert {"-s", "-w", "-i", "-a", "--workers-per-process"} <= stock
    ours = {option for action in parser()._actions for option in action.option_strings}
    assert stock | {"-h", "--help"} <= ours
    assert not NOT_OURS & ours


def test_the_options_of_stock_recovery_are_refused_with_a_hint(capsys):
    with pytest.raises(SystemExit) as end:
        main(["flow.py", "-r", "db"])
    assert end.value.code == 2
    assert "leave out -r and -b: the state is in Redis" in capsys.readouterr().err


def test_every_variable_of_the_stock_runner_counts():
    stock = set(re.findall(r'envvar="(BYTEWAX_\w+)"', STOCK)) - NOT_OUR_ENV
    assert len(stock) == 4
    help_text = parser().format_help()
    for name in stock:
        assert name in help_text
    ours = (Path(sys.modules[parser.__module__].__file__)).read_text()
    for name in set(re.findall(r"BYTEWAX_\w+", STOCK)) - NOT_OUR_ENV:
        assert name in ours, name


def test_variables_are_defaults(monkeypatch):
    monkeypatch.setenv("BYTEWAX_SNAPSHOT_INTERVAL", "0.25")
    monkeypatch.setenv("BYTEWAX_WORKERS_PER_PROCESS", "3")
    monkeypatch.setenv("BYTEWAX_PROCESS_ID", "1")
    monkeypatch.setenv("BYTEWAX_ADDRESSES", "a:1;b:1")
    args = parser().parse_args(["flow"])
    assert args.snapshot_interval.total_seconds() == 0.25
    assert (args.workers_per_process, args.process_id, args.addresses) == (3, 1, "a:1;b:1")
    assert parser().parse_args(["flow", "-w", "2", "-s", "7"]).workers_per_process == 2


def test_help_shows(run):
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--redis URL" in done.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_process_runs_to_the_end_and_a_second_run_adds_nothing(run, sums, workers):
    done = run(*FAST, "-w", workers)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 60
    assert sums.state() == expected(30)
    assert sums.state("in") == {"a": 30, "b": 30}
    assert sums.leases() == []
    again = run(*FAST, "-w", workers)
    assert (again.returncode, again.stdout) == (0, "")
    assert sums.state() == expected(30)


def test_the_number_of_workers_may_change(run, sums):
    for items, workers in ((30, "1"), (50, "3"), (70, "2")):
        assert run(*FAST, "-w", workers, ITEMS=str(items)).returncode == 0
        assert sums.state() == expected(items)


def test_two_processes_share_a_flow(run, sums, two_addresses, tmp_path):
    """Rule 5b: they meet, and one generation counts for both; then one process goes on alone."""
    hosts = tmp_path / "hosts"
    hosts.write_text(two_addresses.replace(";", "\n") + "\n")
    pods = {"BYTEWAX_STATEFULSET_NAME": "flow", "BYTEWAX_HOSTFILE_PATH": str(hosts)}
    first = run.start(*FAST, "-i", "0", "-a", two_addresses)
    second = run.start(*FAST, **pods, BYTEWAX_POD_NAME="flow-1")
    for process in (first, second):
        done = finished(process)
        assert done.returncode == 0, done.stderr
    assert sums.state() == expected(30)
    assert sums.manifest.partitions == 2
    assert run(*FAST, ITEMS="40").returncode == 0
    assert sums.state() == expected(40)
    assert (sums.manifest.partitions, sums.manifest.generation) == (1, 2)


def test_two_threads_and_two_processes_at_once(run, sums, two_addresses):
    both = [run.start(*FAST, "-w", "2", "-i", str(i), "-a", two_addresses) for i in range(2)]
    for process in both:
        assert finished(process).returncode == 0
    assert sums.state() == expected(30)


def test_a_flow_without_state_runs_as_it_is(run, client):
    """Rule 16: no recovery config, no trace in Redis, all of its items."""
    done = run(*FAST, flow="stateless()")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 20)
    assert client.dbsize() == 0


def test_without_a_url_a_server_of_ones_own_is_used_again(run, eventually):
    done = run(*FAST, redis=False)
    assert done.returncode == 0, done.stderr
    assert (run.folder / ".bytewax-redis-state").is_dir()
    again = run(*FAST, redis=False, ITEMS="40")
    assert "generation 2" in again.stderr
    assert len(again.stdout.splitlines()) == 20


def test_the_environment_says_where_redis_is(run, sums):
    done = run(*FAST, redis=False, BYTEWAX_REDIS_URL=run.url)
    assert done.returncode == 0
    assert sums.state() == expected(30)


def test_namespaces_do_not_meet(run, client):
    run(*FAST, "--namespace", "one")
    done = run(*FAST, BYTEWAX_REDIS_NAMESPACE="two")
    assert "starting at epoch 1 without state" in done.stderr
    assert Sums(client, namespace="one").state() == Sums(client, namespace="two").state()


def test_a_dropped_step_is_gone(run, sums, client):
    """Rule 17."""
    run(*FAST)
    done = run(*FAST, "--drop-step", "numbers.sum", flow="get_flow(step='total')", ITEMS="35")
    assert done.returncode == 0, done.stderr
    assert sums.state("sum") == {}
    assert sum(sums.state("total").values()) == 2 * sum(range(31, 36))
    assert not [key for key in client.scan_iter() if b":sum" in key]


def test_a_renamed_step_keeps_its_state(run, sums):
    """Rule 17."""
    run(*FAST)
    renamed = {"flow": "get_flow(step='total')"}
    assert run(*FAST, "--rename-step", "sum=total", ITEMS="40", **renamed).returncode == 0
    assert run(*FAST, "--rename-step", "sum=total", ITEMS="50", **renamed).returncode == 0
    assert run(*FAST, ITEMS="60", **renamed).returncode == 0
    assert sums.state("sum") == expected(60)


def test_a_dropped_partition_is_gone(run, sums):
    """Rule 17."""
    run(*FAST)
    assert run(*FAST, "--drop-partition", "in:a", PARTS="b", ITEMS="40").returncode == 0
    assert sums.state("in") == {"b": 40}
    # Listed again, it begins anew.
    assert run(*FAST, PARTS="a b", ITEMS="40").returncode == 0
    assert sums.state("in") == {"a": 40, "b": 40}


def test_without_pickle_what_needs_it_is_refused(run, client):
    done = run(*FAST, "--no-pickle", flow="pickled()")
    assert done.returncode == 2
    line = next(line for line in done.stderr.splitlines() if "error: " in line)
    assert "step 'sum', key 'k" in line
    assert "allow_pickle is False" in line
    assert run(*FAST, flow="pickled()").returncode == 0


def test_take_over_stops_the_first(run, sums, eventually):
    """Rules 5 and 6: the fenced replicator stops its dataflow, which says who took over."""
    first = run.start(*FAST, ITEMS="1000000", PAUSE="0.01")
    eventually(lambda: sums.manifest and sums.progress() > 3)
    second = run.start(*FAST, "--take-over", ITEMS="1000000", PAUSE="0.01")
    done = finished(first, 30)
    assert done.returncode == 2, done.stderr
    line = next(line for line in done.stderr.splitlines() if "error: " in line)
    assert "taken over" in line
    assert str(second.pid) in line or "generation 2" in line
    assert "Traceback" not in done.stderr
    eventually(lambda: sums.manifest.generation == 2 and sums.progress() > 3)
    second.send_signal(signal.SIGINT)
    assert finished(second, 20).returncode == 130
    items = max(sums.state("in").values())
    assert run(*FAST, ITEMS=str(items)).returncode == 0
    assert sums.state() == expected(items)


def test_the_module_is_what_is_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bytewax_redis_state.run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        check=False,
    )
    assert done.returncode == 2
    assert "FLOW" in done.stderr


def test_addresses_without_a_number_are_of_process_0_as_in_stock(run, sums, two_addresses):
    """The only one of a cluster of one."""
    address, _ = two_addresses.split(";")
    done = run("-s", "0.1", "-a", address, ITEMS="5")
    assert done.returncode == 0, done.stderr
    assert sums.state() == expected(5)
