"""Where a store was published before and the working store lacks rows: take them over, if it is the same space.

Reads earlier published stores; writes the working store. Knows nothing of DVC.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from embedpipe.errors import ProbeMismatch, StoreError
from embedpipe.extract.earlier import EarlierStore, seed
from embedpipe.extract.probe import check_probe
from embedpipe.spec import BackboneSpec
from embedpipe.store import published
from embedpipe.store.group import Group, probe_path
from embedpipe.store.published import Contents, parse_contents


class Earlier:
    """One earlier store, read no further than it is asked about."""

    def __init__(self, store: EarlierStore) -> None:
        self.store = store

    @cached_property
    def contents(self) -> Contents | None:
        """None if there is no store, or none that can be read."""
        data = self.store.read(published.NAME)
        try:
            return None if data is None else parse_contents(data, f"{self.store.where}/{published.NAME}")
        except StoreError:
            return None

    @property
    def spec(self) -> BackboneSpec | None:
        return None if self.contents is None else self.contents.spec

    def probe(self, tap_names: Sequence[str]) -> dict[str, np.ndarray]:
        """Features of the built-in batch as the store's maker computed them."""
        assert self.contents is not None
        found = {}
        for name in tap_names:
            if name in self.contents.taps:
                data = self.store.read(probe_path(name))
                if data is not None:
                    found[name] = np.load(io.BytesIO(data), allow_pickle=False)
        return found


def seed_group(
    group: Group,
    earlier: Sequence[Earlier],
    keys: np.ndarray,
    parts: np.ndarray,
    tap_names: Sequence[str],
    found: Mapping[str, np.ndarray],
    *,
    on_mismatch: str,
    name: str,
) -> list[str]:
    """Take rows over from earlier stores until nothing is missing, or none is left.

    Parameters
    ----------
    keys, parts : uint8 array, shape (n, 16), int32 array, shape (n,)
        Of the rows wanted.
    found
        Features of the built-in batch as this backbone computes them: they must be the earlier store's.

    Returns
    -------
    list of str
        What was done, in sentences.

    Raises
    ------
    ProbeMismatch
        If the working store is empty and an earlier one was computed by something else, unless `on_mismatch`
        is ``new_group``.
    """
    notes = []
    for one in earlier:
        if group.plan(keys, parts, tap_names).num_rows_to_compute == 0:
            break
        if one.contents is None or one.spec != group.spec:
            continue
        stored = one.probe(tap_names)
        if not stored:
            continue  # nothing says that it is the same space
        try:
            check_probe(f"backbones.{name}: {one.store.where}", stored, found, group.spec.precision)
        except ProbeMismatch as error:
            if group.num_rows == 0 and on_mismatch == "refuse":
                raise
            notes.append(f"{error}; nothing is taken over from it")
            continue
        num_taken = seed(group, one.contents, one.store, keys, parts, tap_names)
        if num_taken:
            notes.append(f"{name}: {num_taken:,} samples taken over from {one.store.where}")
    return notes
