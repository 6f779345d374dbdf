"""A partition whose schema is damaged is refused by our error, whatever its bytes are."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from bytewax.recovery import init_db_dir

from bytewax_redis_state.errors import StockStoreError
from bytewax_redis_state.stock.partition import open_partition


def test_a_schema_that_sqlite_can_not_quote_is_refused(tmp_path):
    """The message of SQLite holds the damaged bytes, and Python can't decode it."""
    init_db_dir(tmp_path, 1)
    path = tmp_path / "part-0.sqlite3"
    made = path.read_bytes()
    assert b"tablesnapssnaps" in made
    made = made.replace(b"tablesnapssnaps", b"table\xff\xfeapssnaps")
    path.write_bytes(made.replace(b"CREATE TABLE snaps", b"CREATE TABLE (naps"))
    with ExitStack() as stack, pytest.raises(StockStoreError, match="can't be read as a recovery"):
        open_partition(path, stack)
