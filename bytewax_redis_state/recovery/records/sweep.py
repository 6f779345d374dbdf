"""The sweep: journals and progress that no generation needs any longer.

Invariant: it deletes only what belongs to an older generation than the newest start, and only while
the manifest of that start is there.
"""

from __future__ import annotations

from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.server.replicas import failover_possible, run_id_of

__all__ = ["sweep"]


def sweep(store: FencedStore) -> None:
    """Delete what starts that died have left: journals and progress of older generations.

    They are found, not counted up, since a start may have had any number of processes; a SCAN of
    the whole database takes too long for a start to wait for it.

    :arg store: Under the token of the newest start. If its manifest is still there, older
        generations belong to nobody.
    """
    client, keys, token = store.client, store.keys, store.token
    run_id = run_id_of(client, guarded=failover_possible(client))
    manifest = read_manifest(client, keys)
    if manifest is None or manifest.token != token:
        return
    for key in client.scan_iter(match=keys.partition_pattern, count=1_000):
        place = keys.parse(key)
        if place is not None and place.generation < token.generation:
            at = (place.number, place.generation)
            store.scripts.delete_partition(keys.journal(*at), keys.progress(*at), "", run_id)
