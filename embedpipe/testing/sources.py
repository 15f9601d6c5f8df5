"""What every source keeps to, as checks: stable names, keys of the content, any thread and process.

    def test_my_source():
        check_source({"kind": "python:my_package.sources:open_scans"}, root=Path("."))

Reads every sample of the source several times: give it a few.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.errors import UnreadableSample
from embedpipe.manifest.keys import KEY_NBYTES, array_key, text_key
from embedpipe.sources.base import Scanned, Source, open_source
from embedpipe.testing.backbones import ContractError


def check_source(options: Mapping[str, Any], *, root: Path | str = ".", **access: Any) -> None:
    """Open a source as params.yaml would, twice, and run every check.

    Parameters
    ----------
    options
        As under `source:` of a data set.
    root
        Folder of params.yaml.
    **access
        `id_column` and the others of `Access`.

    Raises
    ------
    ContractError
        At the first check that fails.
    EmbedpipeError
        If it cannot be opened, or lists nothing.
    """
    first, second = (open_source(options, Path(root), **access) for _ in range(2))
    samples, again = list(first.scan({})), list(second.scan({}))
    _check_listing(samples, again)
    good = [sample for sample in samples if sample.key is not None]
    _expect(bool(good), "expected a sample that can be read, found none")
    alone = [digest_of(first, sample.locator) for sample in good]
    of_key: dict[bytes, bytes] = {}
    for sample, digest in zip(good, alone, strict=True):
        assert sample.key is not None
        same = of_key.setdefault(sample.key, digest) == digest
        _expect(
            same, f"{sample.sample_id}: has the key of a sample with other content: make it of the content"
        )
    for sample in samples:
        if sample.key is None:
            _check_unreadable(first, sample)
    sent: Source = pickle.loads(pickle.dumps(first))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda sample: digest_of(sent, sample.locator), good * 4))
    _expect(
        found == alone * 4, "reads something else when it was sent to a worker, or in several threads at once"
    )


def digest_of(source: Source, locator: str) -> bytes:
    """Of what is read at a locator: pixels, or a text."""
    sample = source.read(locator)
    return text_key(sample) if isinstance(sample, str) else array_key(np.asarray(sample))


def _check_listing(samples: list[Scanned], again: list[Scanned]) -> None:
    for name in ("sample_id", "locator"):
        repeated = [value for value, num in Counter(getattr(s, name) for s in samples).items() if num > 1]
        _expect(not repeated, f"lists a {name} more than once: {', '.join(map(repr, repeated[:3]))}")
    _expect(
        [(s.sample_id, s.key, s.labels) for s in samples] == [(s.sample_id, s.key, s.labels) for s in again],
        "lists something else the second time: ids, keys and labels depend on the data alone",
    )
    for sample in samples:
        whole = sample.key is not None and len(sample.key) == KEY_NBYTES
        _expect(
            whole or (sample.key is None and bool(sample.reason)),
            f"{sample.sample_id}: expected a key of {KEY_NBYTES} bytes, or none and a reason, found {sample.key!r} and "
            f"{sample.reason!r}",
        )


def _check_unreadable(source: Source, sample: Scanned) -> None:
    try:
        source.read(sample.locator)
    except UnreadableSample:
        return
    _expect(False, f"{sample.sample_id}: was listed as unreadable ({sample.reason}), and is read")


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)
