"""The check of the manifest: it is present, readable, and of the format that this version knows."""

from __future__ import annotations

import redis

from bytewax_redis_state.doctor.findings import Findings
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.manifest import FORMAT, Manifest, read_manifest

__all__ = ["check_manifest"]


def check_manifest(client: redis.Redis, keys: FlowKeys, findings: Findings) -> Manifest | None:
    """Read the manifest of a flow.

    :arg client: Connected to the Redis that holds the flow.
    :arg keys: Build the keys of the flow.
    :arg findings: Get what is wrong.
    :returns: The manifest; ``None`` where there is none, or none that can be used.
    """
    try:
        manifest = read_manifest(client, keys)
    except StateLostError as error:
        findings.say("error", error.message, error.hint)
        return None
    if manifest is None:
        return None
    if manifest.format != FORMAT:
        findings.say(
            "error",
            f"the flow has format {manifest.format}, and this version reads format {FORMAT}",
            "use the version of bytewax-redis-state that wrote the flow",
        )
        return None
    if manifest.renewing:
        findings.say(
            "warning",
            "Redis was emptied while the flow ran, and the flow's state is not whole again",
            "if the flow runs, wait; if it has ended, delete its keys and start from the beginning",
        )
    return manifest
