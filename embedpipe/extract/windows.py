"""Long texts as several rows: how many windows each text has, for one backbone's tokenizer.

Counts are kept beside the working stores by key, so that a text is read for them once. Reads sources; knows nothing
of models.
"""

from __future__ import annotations

import dataclasses
import io
import uuid
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from embedpipe.backbones.backbone import Backbone
from embedpipe.backbones.tokens import TokenInputs
from embedpipe.errors import ConfigError, UnreadableSample
from embedpipe.extract.samples import WantedSamples
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import WindowOptions
from embedpipe.spec import digest
from embedpipe.store.disk import replace_file

Windows = tuple[int, int]  # tokens, overlap
_CHUNK = 4096


def windows_of(backbone: Backbone, datasets: Mapping[str, WindowOptions | None]) -> Windows | None:
    """The one way in which a backbone's data sets are laid out.

    Parameters
    ----------
    datasets
        ``rows:`` of each data set that the backbone embeds.

    Raises
    ------
    ConfigError
        If they differ, since one store has one way; or the backbone has no tokens to count.
    """
    ways = {name: None if one is None else (one.tokens, one.overlap) for name, one in datasets.items()}
    if len(set(ways.values())) > 1:
        listed = ", ".join(
            f"{name} {'no rows' if way is None else f'tokens {way[0]}, overlap {way[1]}'}"
            for name, way in ways.items()
        )
        raise ConfigError(
            f"params.yaml: backbones.{backbone.name}: expected the same rows: for all data sets that it embeds, since "
            f"one store holds one kind of rows, found {listed}; give the others the same (a short text is one row)"
        )
    way = next(iter(ways.values()), None)
    if way is not None and not isinstance(backbone.inputs, TokenInputs):
        raise ConfigError(
            f"params.yaml: datasets.{next(iter(ways))}.rows: expected a transformers backbone of texts, whose tokens "
            f"can be counted, found backbones.{backbone.name}; leave the key out"
        )
    return way


def with_windows(backbone: Backbone, windows: Windows | None, where: str) -> Backbone:
    """The backbone with long texts as windows."""
    if windows is None:
        return backbone
    assert isinstance(backbone.inputs, TokenInputs)
    return backbone.with_inputs(backbone.inputs.with_windows(*windows, where))


def lay_out(
    wanted: WantedSamples,
    backbone: Backbone,
    stores_dir: Path,
    *,
    threads: int,
    progress: Progress = silent,
) -> WantedSamples:
    """One row for each window of each text, those of a text one after the other."""
    inputs = backbone.inputs
    if not isinstance(inputs, TokenInputs) or inputs.window is None:
        return wanted
    counts = _counts(wanted, inputs, stores_dir / f"{backbone.name}.windows.npz", threads, progress)
    samples = np.repeat(np.arange(len(wanted)), counts)
    starts = np.cumsum(counts) - counts
    return dataclasses.replace(
        wanted,
        keys=wanted.keys[samples],
        parts=(np.arange(len(samples)) - starts[samples]).astype(np.int32),
        samples=samples,
    )


def _counts(
    wanted: WantedSamples, inputs: TokenInputs, path: Path, threads: int, progress: Progress
) -> np.ndarray:
    way = digest([inputs.canonical(), inputs.decoder])
    known = _read(path, way)
    keys = [key.tobytes() for key in wanted.keys]
    missing = np.array([i for i, key in enumerate(keys) if key not in known], np.int64)

    def count(source: int, locator: str) -> int | None:
        try:
            text = wanted.sources[source].read(locator)
            return inputs.num_windows(text) if isinstance(text, str) else None
        except UnreadableSample:
            return None  # one row, which fails by name when it is embedded

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(missing), _CHUNK):
            some = missing[start : start + _CHUNK]
            nums = pool.map(count, wanted.source_index(some).tolist(), wanted.locators(some))
            for index, num in zip(some.tolist(), nums, strict=True):
                if num is not None:
                    known[keys[index]] = num
            progress(start + len(some), len(missing), "texts counted")
    if len(missing):
        _write(path, way, known)
    return np.array([known.get(key, 1) for key in keys], np.int64)


def _read(path: Path, way: str) -> dict[bytes, int]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            if str(held["way"]) != way:
                return {}
            return {key.tobytes(): int(num) for key, num in zip(held["keys"], held["counts"], strict=True)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # damaged: counted again
        return {}


def _write(path: Path, way: str, known: Mapping[bytes, int]) -> None:
    held = io.BytesIO()
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    np.savez(held, way=np.array(way), keys=keys, counts=np.array(list(known.values()), np.int32))
    replace_file(path, held.getvalue(), tag=f".{uuid.uuid4().hex[:8]}")  # every task of an array counts
