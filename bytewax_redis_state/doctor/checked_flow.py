"""The flow that is checked: its Redis, its manifest, and the findings about it."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from bytewax_redis_state.doctor.findings import Findings
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.token import Token

__all__ = ["CheckedFlow", "Writers"]


@dataclass(frozen=True)
class CheckedFlow:
    """The flow, with everything that a check of it needs.

    :arg client: Connected to the Redis that holds the flow; the checks only read from it.
    :arg keys: Build and parse the keys of the flow.
    :arg manifest: The flow's manifest when the verification began.
    :arg findings: Where the checks put their findings.
    """

    client: redis.Redis
    keys: FlowKeys
    manifest: Manifest
    findings: Findings

    def difference(self, token: Token) -> str:
        """Say which start has written something, and which start the manifest is of.

        :arg token: Fencing token of the other start.
        """
        manifest = self.manifest
        if token.generation != manifest.generation:
            return f"generation {token.generation}, but the manifest is of {manifest.generation}"
        return (
            f"start {token.start or 'unknown'} of generation {token.generation}, but the manifest "
            f"is of start {manifest.start}"
        )


@dataclass(frozen=True)
class Writers:
    """The processes that may write to the flow while it is checked.

    :arg leased: Whether a process holds a lease, so that it may fold and commit meanwhile.
    :arg starting: Whether a start is under way or died midway, so that fences are of a newer
        generation than the manifest.
    """

    leased: bool = False
    starting: bool = False

    def __or__(self, other: Writers) -> Writers:
        return Writers(self.leased or other.leased, self.starting or other.starting)
