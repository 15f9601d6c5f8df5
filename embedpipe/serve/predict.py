"""Answer for new inputs: one pass of each backbone for all heads, features of known inputs from the store.

Transfer arms have weights of their own for their backbone, so each sees every input: see `serve.networks`.
Features are rounded as the store rounds them, so that an input gets one answer whether it was embedded before or is
computed now. A long text is the mean of its windows where the store holds it so. An input that cannot be read, or has
no finite features, keeps its row with the reason.
"""

# N inputs, n inputs of a chunk, K classes or labels (1 for numbers)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from embedpipe.backbones.tokens import TokenInputs
from embedpipe.errors import DataError, UnreadableSample
from embedpipe.extract.batches import Embedded
from embedpipe.extract.blocks import batches_of
from embedpipe.extract.computer import Computer
from embedpipe.extract.pipeline import embed
from embedpipe.features.card import TapCard
from embedpipe.features.rows import mean_of_parts, rows_of_samples
from embedpipe.heads.registry import family_of, load_head
from embedpipe.progress import Progress, silent
from embedpipe.serve.arms import TrainedArm
from embedpipe.serve.inputs import Inputs, distinct
from embedpipe.serve.networks import Networks
from embedpipe.serve.opened import OpenBackbone
from embedpipe.sources.base import Source
from embedpipe.train.plan import spatial_shape

CHUNK_NBYTES = 256 << 20
"""Features held at a time, of all taps that are read."""


@dataclass(frozen=True)
class Answer:
    """What one arm says.

    Attributes
    ----------
    scores : float32 [N, K]
        Probabilities by class or label, or the number; NaN where an input has an error.
    """

    arm: TrainedArm
    scores: npt.NDArray[np.float32]


@dataclass
class Answers:
    """What all arms say, and of which inputs they cannot.

    Attributes
    ----------
    errors : list of str or None
        Why an input has no answer.
    num_computed, num_known : dict of str -> int
        Inputs that went through a backbone, by its name, or through a transfer arm, by ``TASK:ARM``; and those whose
        features were in the store.
    """

    answers: list[Answer]
    errors: list[str | None]
    num_computed: dict[str, int] = field(default_factory=dict)
    num_known: dict[str, int] = field(default_factory=dict)


def predict(
    arms: Sequence[TrainedArm],
    backbones: Mapping[str, OpenBackbone],
    inputs: Inputs,
    *,
    batch: int = 32,
    decode_threads: int = 2,
    progress: Progress = silent,
) -> Answers:
    """Ask every arm about every input.

    Parameters
    ----------
    backbones
        Open, with all taps that the arms read.
    batch
        Inputs a forward pass.

    Raises
    ------
    DataError
        If a head and the tap that it was trained on do not fit each other.
    SpecMismatch, WeightsError
        If a transfer arm is of another backbone, or damaged.
    """
    heads = {arm.task: load_head(arm.folder) for arm in arms if not arm.has_body}
    readers = {
        name: _Reader(opened.with_taps(wanted), inputs, batch, decode_threads)
        for name, opened in backbones.items()
        if (wanted := {tap for arm in arms if not arm.has_body for one, tap in arm.parts if one == name})
    }
    networks = [
        Networks(adapted, opened, inputs, batch, decode_threads)
        for name, opened in backbones.items()
        if (adapted := [arm for arm in arms if arm.has_body and name in arm.backbones])
    ]
    found = Answers(
        [Answer(arm, np.full((len(inputs), arm.target.width), np.nan, np.float32)) for arm in arms],
        list(inputs.reasons),
    )
    readable = np.flatnonzero([reason is None for reason in inputs.reasons])
    row_nbytes = sum(one.row_nbytes for one in readers.values()) + sum(one.row_nbytes for one in networks)
    step = max(batch, CHUNK_NBYTES // max(1, row_nbytes) // batch * batch)
    for start in range(0, len(readable), step):
        chunk = readable[start : start + step]
        features: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
        for name, reader in readers.items():
            taps, failures = reader.read(chunk)
            features |= {(name, tap): values for tap, values in taps.items()}
            for place, reason in failures.items():
                found.errors[place] = found.errors[place] or reason
        said: dict[str, npt.NDArray[np.float32]] = {}
        for several in networks:
            scores, failures = several.read(chunk)
            said |= scores
            for place, reason in failures.items():
                found.errors[place] = found.errors[place] or reason
        good = np.array([found.errors[place] is None for place in chunk], bool)
        for answer in found.answers if good.any() else ():
            if answer.arm.has_body:
                answer.scores[chunk[good]] = said[answer.arm.task][good]
                continue
            X = np.concatenate(
                [features[part][good].reshape(int(good.sum()), -1) for part in answer.arm.parts], axis=1
            )
            card = backbones[answer.arm.parts[0][0]].features.card.taps[answer.arm.parts[0][1]]
            answer.scores[chunk[good]] = scores_of(heads[answer.arm.task], X, answer.arm, card)
        progress(min(start + step, len(readable)), len(readable), "inputs")
    adapted_by_name = {name: one.num_computed for one in networks for name in one.names}
    found.num_computed = {name: one.num_computed for name, one in readers.items()} | adapted_by_name
    found.num_known = {name: one.num_known for name, one in readers.items()} | dict.fromkeys(
        adapted_by_name, 0
    )
    return found


def row_shape(arm: TrainedArm, card: TapCard) -> tuple[int, ...]:
    """Shape in which the arm's family sees a row of the tap; (-1,) for one that lies flat."""
    spatial = family_of(arm.family).inputs in ("maps", "tokens")
    return (spatial_shape(card) if spatial else None) or (-1,)


def scores_of(
    head: Any, X_ND: npt.NDArray[np.float32], arm: TrainedArm, card: TapCard
) -> npt.NDArray[np.float32]:
    """Scores of rows that lie flat, in the order of the arm's classes: as training writes them.

    Raises
    ------
    DataError
        If the head was fitted on rows of another length, or kind of target.
    """
    if arm.target.kind == "dense":
        raise DataError(
            f"task {arm.task!r}: {arm.arm} answers for every place of a map, which no table of predictions holds; "
            "load the head and ask it for features"
        )
    X = X_ND.reshape(len(X_ND), *row_shape(arm, card))
    asked = head.predict if arm.target.kind == "number" else head.predict_proba
    found: npt.NDArray[np.float32] = np.asarray(asked(X), np.float32).reshape(len(X), -1)
    if found.shape[1] != arm.target.width:
        raise DataError(
            f"task {arm.task!r}: {arm.folder}: expected {arm.target.width} scores a sample, found {found.shape[1]}; "
            f"run `embedpipe train {arm.task}`"
        )
    return found


class _Reader:
    """Features of inputs in the taps of one backbone: from the store where it has them, else computed."""

    def __init__(self, opened: OpenBackbone, inputs: Inputs, batch: int, decode_threads: int) -> None:
        self.opened, self.inputs, self.decode_threads = opened, inputs, decode_threads
        source = cast(Source, inputs)  # of which nothing but `read` is asked
        self.computer = Computer(
            opened.backbone,
            opened.device,
            opened.precision,
            list(opened.taps.values()),
            batch,
            False,
            [source],
        )
        store = opened.features.store
        self.shapes = {tap: store.tap(tap).row_shape for tap in opened.taps}
        self.row_nbytes = 4 * sum(math.prod(shape) for shape in self.shapes.values())
        self.num_computed = self.num_known = 0
        self._holes = np.zeros(store.num_rows, bool)
        for tap in opened.taps:
            self._holes |= store.holes(tap).mask(0, store.num_rows)

    def read(self, chunk: npt.NDArray[np.int64]) -> tuple[dict[str, npt.NDArray[np.float32]], dict[int, str]]:
        """Features of the inputs at `chunk`, [n, ...] by tap, and why some of them have none."""
        keys, first, place_of = distinct(self.inputs, chunk)
        store = self.opened.features.store
        rows = rows_of_samples(store, keys[first]).without(self._holes, whole=True)
        known = rows.counts > 0
        values = {tap: np.zeros((len(first), *shape), np.float32) for tap, shape in self.shapes.items()}
        if known.any():
            rows = rows.take(np.flatnonzero(known))
            for tap, into in values.items():
                into[known] = _of_samples(store.read(tap, rows.rows), rows.starts)
        failures = self._compute(np.flatnonzero(~known), chunk[first], values)
        self.num_known += int(known[place_of].sum())
        reasons = {
            int(chunk[n]): failures[int(one)] for n, one in enumerate(place_of) if int(one) in failures
        }
        return {tap: into[place_of] for tap, into in values.items()}, reasons

    def _compute(
        self,
        unknown: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
        values: dict[str, npt.NDArray[np.float32]],
    ) -> dict[int, str]:
        """Fill the rows `unknown` of `values` from the inputs at `places`; reasons by row where that failed."""
        failures: dict[int, str] = {}
        starts = np.concatenate([[0], np.cumsum(self._num_windows(places[unknown]))])
        most = max(self.computer.batch, CHUNK_NBYTES // max(1, self.row_nbytes))
        begin = 0
        while begin < len(unknown):  # a piece holds as many rows as there is room for, and one input at least
            end = int(np.searchsorted(starts, starts[begin] + most, side="right")) - 1
            end = min(max(begin + 1, end), len(unknown))
            some = unknown[begin:end]
            windows = starts[begin : end + 1] - starts[begin]
            found, failed = self._compute_rows(places[some], windows)
            for tap, rows in found.items():
                values[tap][some] = _of_samples(rows, windows)
            failures |= {int(some[one]): reason for one, reason in failed.items()}
            begin = end
        return failures

    def _compute_rows(
        self, places: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[int, str]]:
        """Rows of the inputs at `places` by tap, one a window of each; reasons by input where one of them failed."""
        of = np.repeat(np.arange(len(places)), np.diff(starts))
        parts = np.arange(len(of)) - starts[of]
        values = {tap: np.zeros((len(of), *shape), np.float32) for tap, shape in self.shapes.items()}
        failures: dict[int, str] = {}

        def write(embedded: Embedded) -> None:
            for row, reason in embedded.failures.items():
                failures.setdefault(int(of[row]), reason)
            rows = embedded.batch.rows[embedded.ok]
            for tap, found in embedded.values.items():
                kept = self.opened.rounded(tap, found)
                values[tap][rows] = kept
                finite = np.isfinite(kept.reshape(len(kept), -1)).all(axis=1)
                for row in rows[~finite].tolist():
                    failures.setdefault(
                        int(of[row]), f"features of tap {tap} are not finite in {self.opened.taps[tap].dtype}"
                    )
            self.num_computed += int((parts[rows] == 0).sum())

        embed(
            batches_of(np.arange(len(of)), np.arange(len(of)), self.computer.batch),
            lambda row: self.computer.read(0, str(places[of[row]]), int(parts[row])),
            self.computer.engine(tuple(self.opened.taps)),
            write,
            decode_threads=self.decode_threads,
        )
        return values, failures

    def _num_windows(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows that each input takes: one, but for long texts where the store holds them as windows."""
        steps = self.opened.backbone.inputs
        if not isinstance(steps, TokenInputs) or steps.window is None:
            return np.ones(len(places), np.int64)
        count: Callable[[str], int] = steps.num_windows

        def num(place: int) -> int:
            try:
                return count(str(self.inputs.read(str(place))))
            except UnreadableSample:  # one row, which fails by name when it is computed
                return 1

        with ThreadPoolExecutor(self.decode_threads) as pool:
            return np.array(list(pool.map(num, places.tolist())), np.int64)


def _of_samples(rows: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """One row a sample, as training sees it: the mean of its windows."""
    if len(rows) == len(starts) - 1:
        return rows
    return mean_of_parts(rows.reshape(len(rows), -1), starts).reshape(len(starts) - 1, *rows.shape[1:])
