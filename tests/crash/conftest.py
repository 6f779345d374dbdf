"""Jobs for the crash tests: each in a namespace and folders of its own.

``CRASH_SEED`` strikes at other moments: ``CRASH_SEED=2 python -m pytest tests/crash``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .job import Job
from .reference_flows import Clicks, ReferenceFlow

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(
    redis_url: str, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeJob]:
    """Make a job: ``make_job(Clicks())``; what is left of its processes ends with the test."""
    with ExitStack() as stack:

        def make(reference: ReferenceFlow | None = None, url: str = redis_url) -> Job:
            seed = f"{request.node.name} {os.environ.get('CRASH_SEED', '')}"
            job = Job(reference or Clicks(), url, namespace, tmp_path / "job", seed)
            stack.callback(job.close)
            return job

        yield make
