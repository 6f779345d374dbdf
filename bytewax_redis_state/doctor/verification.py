"""The verification of one flow in Redis: every check that needs no run of the flow.

Invariant: it only reads, also while the flow runs. What a running flow changes is read again
before it is called wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import redis

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.doctor.cell_check import check_cells
from bytewax_redis_state.doctor.census import Census
from bytewax_redis_state.doctor.checked_flow import CheckedFlow
from bytewax_redis_state.doctor.findings import Finding, Findings
from bytewax_redis_state.doctor.journal_check import JournalCheck
from bytewax_redis_state.doctor.key_usage import KeyUsage
from bytewax_redis_state.doctor.lease_check import check_counter, check_leases
from bytewax_redis_state.doctor.manifest_check import check_manifest
from bytewax_redis_state.doctor.other_keys import OtherKeys, check_other_keys, find_other_keys
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["Verification", "verify"]


@dataclass
class Verification:
    """The result of a verification: the parts of a flow in Redis, and the findings.

    :arg flow_id: ID of the flow.
    :arg namespace: The namespace that the flow is in.
    :arg manifest: The flow's manifest; ``None`` where there is none that can be used.
    :arg keys: Short step name to number of state keys.
    :arg entries: How many journal entries no checkpoint has folded yet.
    :arg signed: Key ID to number of values signed with it, values in journals included; values
        without a signature count under the empty ID.
    :arg encrypted: The same for encryption.
    :arg findings: In the order in which they were found.
    """

    flow_id: str
    namespace: str
    manifest: Manifest | None = None
    keys: dict[str, int] = field(default_factory=dict)
    entries: int = 0
    signed: Mapping[str, int] = field(default_factory=dict)
    encrypted: Mapping[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)


def verify(
    client: redis.Redis,
    keys: FlowKeys,
    progress: Callable[[int, int], None] = lambda done, total: None,
    codec: Codec | None = None,
) -> Verification:
    """Check a flow: manifest, leases, journals, cells, and the envelope of each value.

    Signatures and encryption are checked where the secret keys are given.

    :arg client: Connected to the Redis that holds the flow; it is only read from.
    :arg keys: Build and parse the keys of the flow.
    :arg progress: Gets the number of state keys that were read, and how many there are.
    :arg codec: Holds the secret keys; ``None`` where they are not known.
    :returns: The parts of the flow, and the findings.
    """
    findings, found = Findings(), Verification(keys.flow_id, keys.namespace)
    found.manifest = check_manifest(client, keys, findings)
    others = find_other_keys(client, keys)
    if found.manifest is not None:
        flow = CheckedFlow(client, keys, found.manifest, findings)
        _check_flow(flow, others, KeyUsage(keys, codec), progress, found)
    elif not findings and _has_state(others):
        findings.say("error", "the flow has keys but no manifest", way_out(keys))
    found.findings = findings.listed()
    return found


def _check_flow(
    flow: CheckedFlow,
    others: OtherKeys,
    usage: KeyUsage,
    progress: Callable[[int, int], None],
    found: Verification,
) -> None:
    """Check a flow that has a manifest.

    1. Leases and the generation counter: they tell which processes may write meanwhile.
    2. Journals, before the cells: a fold moves a cell forwards, and trims the journal after that.
    3. Cells, against the epochs that the journals hold.
    4. States, against the counts of the cells.
    5. All other keys.
    """
    writers = check_leases(flow, others) | check_counter(flow)
    journals = {p: JournalCheck(flow, usage, p) for p in range(flow.manifest.partitions)}
    ranges = {partition: journal.check() for partition, journal in journals.items()}
    marks = check_cells(flow, ranges, writers)
    found.keys = Census(flow, usage, progress).take(marks)
    check_other_keys(flow, others, writers)
    for what, hint in usage.summaries():
        flow.findings.say("note", what, hint)
    found.entries = sum(journal.entries for journal in journals.values())
    found.signed, found.encrypted = dict(usage.signed), dict(usage.encrypted)


def _has_state(others: OtherKeys) -> bool:
    """Whether a start has written more than leases, which every start claims first."""
    return any(place is not None and place.kind != "lease" for place in others.values())
