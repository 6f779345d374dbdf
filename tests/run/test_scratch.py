"""A scratch folder that somebody deletes while the flow runs, as cleaners of /tmp do."""

from __future__ import annotations

import shutil

from .conftest import finished


def test_a_deleted_outbox_ends_the_flow_at_once_and_it_resumes_exactly(run, sums, eventually):
    """Nothing would be persisted from then on."""
    running = run.start("-s", "0.1", ITEMS="1000000", PAUSE="0.01")
    eventually(lambda: sums.manifest and sums.progress() > 3)
    (outbox,) = (run.folder / "scratch").glob("bytewax-outbox-*")
    shutil.rmtree(outbox)
    ended = finished(running, 30)
    assert ended.returncode == 2, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if " error: " in line]
    assert len(errors) == 1, ended.stderr
    assert str(outbox) in errors[0]
    assert "Traceback" not in ended.stderr
    assert sums.leases() == []
    given = max(sums.state("in").values(), default=0)
    done = run("-s", "0.1", ITEMS=str(given + 20))
    assert done.returncode == 0, done.stderr
    sums.require_sums_of_sources(given + 20)
