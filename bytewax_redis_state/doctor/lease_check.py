"""The check of leases and of the generation counter: they tell which processes may write."""

from __future__ import annotations

from typing import cast

from bytewax_redis_state.doctor.checked_flow import CheckedFlow, Writers
from bytewax_redis_state.doctor.other_keys import OtherKeys
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.recovery.records.lease import Lease
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["check_counter", "check_leases"]


def check_leases(flow: CheckedFlow, others: OtherKeys) -> Writers:
    """Check every lease of the flow.

    :arg flow: The flow.
    :arg others: All of its keys but its states.
    :returns: The processes that may write, as far as leases tell.
    """
    writers = Writers()
    for key, place in others.items():
        if place is not None and place.kind == "lease":
            writers |= _check_lease(flow, key)
    return writers


def _check_lease(flow: CheckedFlow, key: bytes) -> Writers:
    value = cast("bytes | None", flow.client.get(key))
    if value is None:  # it expired after it was found
        return Writers()
    try:
        lease = Lease.from_json(value)
    except StateLostError as error:
        flow.findings.say("error", error.message, error.hint, kind="unreadable leases")
        return Writers()
    listed = lease.id in flow.manifest.processes
    flow.findings.say(
        "note",
        f"{lease.phase}: {lease.whereabouts}",
        "it may change the flow while the flow is verified",
        kind="leases",
    )
    if lease.phase != "joining" and not listed:
        flow.findings.say(
            "warning",
            f"process {lease.process} holds a lease, but the manifest does not list the process",
            "another start took the flow over; the process ends as soon as it notices",
            kind="leases of processes that were taken over",
        )
    if flow.client.pttl(key) == -1:
        flow.findings.say(
            "error",
            f"the lease {key.decode()!r} never expires",
            "delete it if its process no longer runs",
            kind="leases that never expire",
        )
    return Writers(leased=True, starting=lease.phase == "joining" and not listed)


def check_counter(flow: CheckedFlow) -> Writers:
    """Compare the generation counter with the manifest.

    :arg flow: The flow.
    :returns: The processes that may write, as far as the counter tells.
    """
    text = cast("bytes | None", flow.client.get(flow.keys.generation))
    try:
        counter = Token.parse(text or b"")
    except ValueError:
        held = "missing" if text is None else f"{text!r}, which is not a generation"
        flow.findings.say("error", f"the generation counter is {held}", way_out(flow.keys))
        return Writers()
    newest = flow.manifest.generation
    if counter.generation > newest:
        flow.findings.say(
            "note",
            f"a start got as far as generation {counter.generation} and has written no manifest",
            "the start is under way, or it died; the next start finishes its work",
        )
        return Writers(starting=True)
    if counter.generation < newest:
        flow.findings.say(
            "error",
            f"the generation counter stands at {counter.generation}, but the manifest is of "
            f"{newest}",
            way_out(flow.keys),
        )
    elif counter != flow.manifest.token:
        flow.findings.say(
            "error", f"the generation counter is of {flow.difference(counter)}", way_out(flow.keys)
        )
    return Writers()
