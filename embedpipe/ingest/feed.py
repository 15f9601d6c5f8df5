"""A feed of changes: which samples were added, updated or deleted since a data set was last listed."""

from __future__ import annotations

from embedpipe.errors import DataError
from embedpipe.ingest.labels import text_of
from embedpipe.params import did_you_mean
from embedpipe.sources.rows import read_rows

OPERATIONS = ("add", "update", "delete")


def read_feed(address: str) -> dict[str, str]:
    """What became of each sample that the feed names: its last word about it counts.

    A feed may be a log that grows: what it said before and is said again changes nothing.

    Parameters
    ----------
    address
        Of a table with columns ``id`` and ``op``.

    Returns
    -------
    dict of sample_id to ``add``, ``update`` or ``delete``

    Raises
    ------
    DataError
        If there is no such table, or a row of it is wrong.
    """
    rows = read_rows(address)
    changes: dict[str, str] = {}
    ids, operations = rows.column("id", "feed"), rows.column("op", "feed")
    for number, (value, given) in enumerate(zip(ids, operations, strict=True), start=1):
        name, operation = text_of(value), text_of(given)
        if name is None:
            raise DataError(f"{address}: feed: expected an id in each row, found none in row {number}")
        if operation not in OPERATIONS:
            raise DataError(
                f"{address}: feed: expected op {', '.join(OPERATIONS)} in row {number}, found {operation!r}"
                f"{did_you_mean(operation or '', OPERATIONS)}"
            )
        changes.pop(name, None)
        changes[name] = operation
    return changes
