"""Draw k labelled samples a class: nested in k, stable under growth, another set a draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError
from embedpipe.manifest.splits import unit_hash


def k_shot_indices(
    sample_ids: Sequence[str] | npt.NDArray[np.object_],
    codes: npt.NDArray[np.int64],
    k: int,
    *,
    draw: int,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> npt.NDArray[np.int64]:
    """Places of the k samples of each class with the lowest hash of (seed, draw, sample_id).

    The k-shot set lies within the (k+1)-shot set of the same draw, and a new sample takes the place of at
    most one other.

    Parameters
    ----------
    sample_ids : sequence of str, length N
        Of the train split.
    codes : int64 array, shape (N,)
        Class of each sample; -1 where the label is missing, and such samples are never drawn.
    k : int
        Samples a class, at least 1.
    draw : int
        Number of the draw; draws are independent of each other.
    seed : int
        The run's seed.
    classes : sequence of str, optional
        Names of all classes, in the order of the codes. With it a class without samples is an error,
        and errors name the class.

    Returns
    -------
    int64 array, shape (k * K,), ascending

    Raises
    ------
    DataError
        If a class has fewer than k samples; names it and says how many it has.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1 sample a class, found {k}")
    codes = np.asarray(codes)
    wanted = range(len(classes)) if classes is not None else sorted(set(codes[codes >= 0].tolist()))
    hashes = np.array(
        [unit_hash("k-shot", seed, draw, sample_id) for sample_id in sample_ids], dtype=np.float64
    )
    chosen: list[npt.NDArray[np.int64]] = []
    short: list[str] = []
    for code in wanted:
        places = np.flatnonzero(codes == code)
        if len(places) < k:
            short.append(f"{classes[code] if classes is not None else code!s} has {len(places)}")
            continue
        chosen.append(places[np.argsort(hashes[places], kind="stable")[:k]])
    if short:
        more = f" and {len(short) - 3} more classes" if len(short) > 3 else ""
        raise DataError(
            f"k_shot {k}: expected {k} labelled train samples in each class, found too few: "
            f"{', '.join(short[:3])}{more}; lower k_shot or label more"
        )
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)
