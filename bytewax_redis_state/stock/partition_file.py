"""PartitionFile: one file of a recovery directory of stock Bytewax, read as it is.

Invariant: reading changes nothing in the directory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bytewax_redis_state.errors import StockStoreError

__all__ = ["PartitionFile"]


class PartitionFile:
    """Reads a partition that nobody writes.

    :arg path: The partition's file.
    :arg immutable: Read the file alone, and leave no trace beside it. Without this, SQLite reads
        the log too, and makes files beside it: only for a copy.
    :arg name: The path that errors show.
    :raises StockStoreError: If it can't be opened.
    """

    def __init__(self, path: Path, *, immutable: bool, name: Path) -> None:
        self._name = name
        how = "mode=ro&immutable=1" if immutable else "mode=rw"
        with self._as_store_error():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Stream the rows of a query.

        :arg sql: A query that only reads.
        :raises StockStoreError: If the file is damaged, or no database at all.
        """
        with self._as_store_error(), closing(self._db.execute(sql)) as cursor:
            yield from cursor

    @contextmanager
    def _as_store_error(self) -> Iterator[None]:
        try:
            yield
        # sqlite3 fails to decode its own message where that quotes damaged bytes.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise StockStoreError(
                f"{self._name} can't be read as a recovery partition: {error}",
                "give the directory that the flow ran with -r",
            ) from error
