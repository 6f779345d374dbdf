from __future__ import annotations

from tests.crash.conftest import make_job

__all__ = ["make_job"]
