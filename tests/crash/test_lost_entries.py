"""Rule 10: what is deleted in Redis while a flow is down stops its start, named; ways out lead out.

The flow and its replicator are killed before anything was folded, so the journal alone holds what
was committed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from .conftest import MakeJob
from .job import NEVER, Job

pytestmark = pytest.mark.crash

REFUSED = 2
_COMMAND = re.compile(r"redis-cli --scan --pattern '.*' \| tr .* UNLINK")


def journal(job: Job) -> bytes:
    return job.keys.journal(0, 1)


def of_step(job: Job, step: str) -> list[bytes]:
    """Give the IDs of a step's entries, the newest first."""
    found = job.client.xrevrange(journal(job))
    return [entry for entry, fields in found if fields[b"c"].endswith(b":" + step.encode())]


def lose_the_newest_of_a_step(job: Job) -> str:
    job.client.xdel(journal(job), of_step(job, "total")[0])
    return "entries and must hold"


def lose_the_newest_of_the_source(job: Job) -> str:
    job.client.xdel(journal(job), *of_step(job, "clicks")[:2])
    return "entries and must hold"


def lose_one_in_the_middle(job: Job) -> str:
    entries = of_step(job, "total")
    job.client.xdel(journal(job), entries[len(entries) // 2])
    return "entries and must hold"


def lose_all_entries(job: Job) -> str:
    job.client.xtrim(journal(job), maxlen=0, approximate=False)
    return "holds 0 entries and must hold"


def lose_the_journal(job: Job) -> str:
    job.client.delete(journal(job))
    return f"the journal {journal(job).decode()!r} is missing, which must hold"


def lose_the_progress(job: Job) -> str:
    job.client.delete(job.keys.progress(0, 1))
    return f"the progress {job.keys.progress(0, 1).decode()!r} is missing"


def lose_both(job: Job) -> str:
    job.client.delete(job.keys.progress(0, 1), journal(job))
    return "are missing"


LOSSES = (
    lose_the_newest_of_a_step,
    lose_the_newest_of_the_source,
    lose_one_in_the_middle,
    lose_all_entries,
    lose_the_journal,
    lose_the_progress,
    lose_both,
)


def killed(job: Job) -> dict[bytes, bytes]:
    """Kill a flow of which nothing was folded; give what Redis holds of it."""
    execution = job.start(checkpoint=NEVER)
    job.reach_midstream(execution, 4)
    execution.kill_groups()
    execution.lose_scratch()
    found = {key: job.client.dump(key) for key in job._all_keys() if b":lease:" not in key}
    for key in job.client.scan_iter(job.keys.lease(0)):
        job.client.delete(key)
    assert not job.state()
    return found


def put_back(job: Job, whole: dict[bytes, bytes]) -> None:
    job.client.delete(*job._all_keys())
    for key, value in whole.items():
        job.client.restore(key, 0, value)


def refused(job: Job, said: str) -> str:
    execution = job.start()
    assert execution.wait() == [REFUSED], execution.said
    assert said in execution.said
    assert "Traceback" not in execution.said
    return execution.said


def test_a_start_names_what_is_gone_of_a_journal_and_nothing_is_lost_without_a_word(
    make_job: MakeJob,
) -> None:
    job = make_job()
    whole = killed(job)
    for lose in LOSSES:
        told = lose(job)
        refused(job, told)
        put_back(job, whole)
    job.finish()
    assert job.differences() == []


def delete_the_keys(job: Job, said: str) -> None:
    """As the error says, with the server's address."""
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed")
    found = _COMMAND.search(said)
    assert found is not None, said
    url = urlsplit(job.url)
    where = f"redis-cli -p {url.port} -n {url.path.strip('/')}"
    subprocess.run(found[0].replace("redis-cli", where), shell=True, check=True)
    assert not list(job._all_keys())


def take_another_namespace(job: Job, said: str) -> None:
    assert "start it with another --namespace" in said
    job.enter_namespace(f"{job.namespace}-anew")


@pytest.mark.parametrize("way", [delete_the_keys, take_another_namespace])
def test_each_way_out_of_a_loss_leads_to_a_flow_that_begins_again(
    make_job: MakeJob, way: Callable[[Job, str], None]
) -> None:
    job = make_job()
    killed(job)
    said = refused(job, lose_the_progress(job))
    # A neighbour whose name begins alike stays.
    job.client.set(job.keys.manifest.replace(b"}", b"2}"), "neighbour")
    way(job, said)
    shutil.rmtree(job.out, ignore_errors=True)
    resumed = job.finish()
    assert (resumed.epoch, resumed.total) == (1, 0)
    assert job.differences() == []
    if way is delete_the_keys:
        assert job.client.delete(job.keys.manifest.replace(b"}", b"2}")) == 1
