"""Jobs on groups of servers, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.crash.job import Job
from tests.crash.reference_flows import Clicks, ReferenceFlow

MakeJob = Callable[..., Job]
Tell = Callable[[str], None]


@pytest.fixture
def make_job(namespace: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeJob]:
    """Make a job: ``make_job(url, Clicks())``; its processes end with the test."""
    with ExitStack() as stack:

        def make(url: str, reference: ReferenceFlow | None = None) -> Job:
            job = Job(
                reference or Clicks(160_000), url, namespace, tmp_path / "job", request.node.name
            )
            stack.callback(job.close)
            return job

        yield make


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Tell:
    """Put out a line that the run shows."""

    def show(line: str) -> None:
        with capfd.disabled():
            print(f"\n{request.node.name}: {line}", flush=True)

    return show
