"""The steps of a start, each with what is true after it. A process may die between any two.

==  ============  ======  =========================================================================
no  step          rule 5  what is true after it
==  ============  ======  =========================================================================
 1                        the servers, and what Redis holds of the flow, fit this flow and its
                          settings; whatever can be refused is refused before anything is written
 2  ``claimed``   a       no live execution holds the lease of this process, which renews it
 3  ``joined``    b       every process of the cluster has claimed its lease with a random ID
 4  ``planned``           the flow has a manifest; the steps and partitions of all processes fit it
 5  ``bumped``    c       this start has a generation of its own, a number and an ID: older starts
                          can't write a manifest, nor can a start that Redis gave the same number
                          before it lost that
 6  ``newest``    c       the plan was made from the newest manifest
 7  ``fenced``    d       no old replicator can append; how far each old partition came is known
 8  ``cells``     e       no old replicator can fold
 9  ``epoch``     f       the resume epoch E is known: the least progress of all old partitions
10  ``checked``   g       no cell has applied anything at or above E, and no journal has a hole
11  ``folded``    h       the keyed state is exactly the state before E; the rest is dropped
12  ``settled``           cells, journals and progress of the new generation exist
13  ``written``   i       the manifest names the new generation and the IDs of its processes
14  ``cleaned``   j       the old journals and the cells of dropped steps are gone
15  ``restored``          the state of this process's shards is in memory, and is whole
16  ``outbox``            the recovery partition of this process holds a row for each restored cell
17  ``shipping``          a replicator ships what the engine will write; the engine may start
==  ============  ======  =========================================================================

The coordinator, process 0, takes all of them. The others take the steps from 3 to 14 together: they
are ``waiting`` once their lease is claimed, and ``listed`` when they have found a manifest that
names their ID.

The order is that of rule 5 of the design; a model check (tests/model) has found every other natural
order unsafe. What the steps 5, 7, 8, 11, 12 and 13 write is on all replicas in step before the next
one relies on it, so no failover takes it back (``server/replicas.py``). A failover in between is
noticed, and so is a single server that was started again (13 and 14 ask for its run): then the
start fails, and the user or a supervisor starts again. What starts that died have left in Redis is
deleted later, by ``records/sweep.py``.
"""

from __future__ import annotations

import logging

from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.start.process_start import ProcessStart

__all__ = ["reached", "start_flow"]

logger = logging.getLogger(__name__)


def reached(step: str) -> None:
    """Note that a step of the start is done; the crash tests strike here."""
    logger.debug("start step=%s", step)


def start_flow(process: ProcessStart) -> Manifest:
    """Start a flow: the steps of the table above, in its order.

    :arg process: The process of the cluster that starts.
    :returns: The manifest of the generation that has started.
    :raises StateError: If the flow runs elsewhere, does not fit, lost something, or was taken over.
    """
    process.require_fit()
    process.claim_lease()
    reached("claimed")
    if process.coordinates:
        members = process.meet_members()
        reached("joined")
        known, plan = process.plan(members)
        reached("planned")
        takeover = process.bump_generation(known, plan, members)
        reached("bumped")
        takeover.require_newest()
        reached("newest")
        fences = takeover.fence_partitions()
        reached("fenced")
        marks = takeover.fence_cells()
        reached("cells")
        epoch = takeover.resume_epoch(fences)
        reached("epoch")
        takeover.check(marks, fences, epoch)
        reached("checked")
        takeover.fold(fences, epoch)
        reached("folded")
        takeover.make_generation(fences, epoch)
        reached("settled")
        manifest = takeover.write_manifest(epoch)
        reached("written")
        takeover.clean()
        reached("cleaned")
    else:
        reached("waiting")
        manifest = process.find_manifest()
        reached("listed")
    restored = process.restore(manifest)
    reached("restored")
    process.make_outbox(manifest, restored)
    reached("outbox")
    process.start_replicator(manifest)
    reached("shipping")
    return manifest
