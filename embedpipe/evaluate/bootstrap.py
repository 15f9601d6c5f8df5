"""Percentile bootstrap over samples (by group where there are groups) and over k-shot draws.

All arms of a task are resampled alike, so a difference between two arms is paired. With several draws
the resampling is two-way: samples and draws are resampled independently and crossed, which keeps the
variance of both sources and errs, where it errs, on the wide side.

Where an arm is right everywhere, or nowhere, every resample says the same and the percentiles collapse to a
point, as if a few samples had proved perfection. There the bound is Clopper and Pearson's, with groups
counted as one sample each.

References
----------
Clopper and Pearson 1934, "The use of confidence or fiducial limits", Biometrika 26(4) (at 0 and 100 %).
Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile intervals).
Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2) (two-way resampling).
"""

# N samples, K classes, B resamples, R draws

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedpipe.evaluate.metrics import Array, weighted_metrics

NUM_RESAMPLES = 1000
LEVEL = 0.95
_BLOCK_ENTRIES = 2_000_000  # weights held as float64 at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval; NaN bounds are written as null."""

    value: float
    ci_low: float
    ci_high: float

    def to_dict(self) -> dict[str, float | None]:
        return {name: _finite(getattr(self, name)) for name in ("value", "ci_low", "ci_high")}


@dataclass(frozen=True)
class Judged:
    """Metrics of one arm: the value itself and its value in each resample.

    Attributes
    ----------
    margins : dict of metric to float
        How far from 0 and from 1 the interval reaches where the value is exactly there.
    """

    point: dict[str, float]
    resampled: dict[str, Array]
    margins: dict[str, float] = field(default_factory=dict)

    def interval(self, metric: str) -> Interval:
        value, (low, high) = self.point[metric], percentiles(self.resampled[metric])
        margin = self.margins.get(metric)
        if margin is not None and value >= 1.0:
            low = min(low, 1.0 - margin)
        elif margin is not None and value <= 0.0:
            high = max(high, margin)
        return Interval(value, low, high)

    def intervals(self) -> dict[str, dict[str, float | None]]:
        """Every metric, as the leaderboard holds it."""
        return {metric: self.interval(metric).to_dict() for metric in self.point}

    def minus(self, other: Judged, metric: str) -> Interval:
        """Paired difference to `other`, which the same `Judge` has judged."""
        return Interval(
            self.point[metric] - other.point[metric],
            *percentiles(self.resampled[metric] - other.resampled[metric]),
        )


@dataclass
class Judge:
    """Judges the arms of one task on the same samples and the same resamples.

    Parameters
    ----------
    kind
        ``classes``, ``multilabel``, ``number`` or ``dense``.
    truth
        As `embedpipe.manifest.kinds` lists it for the kind; every sample is labelled.
    groups
        Group of each sample; None means that each sample is its own. Groups are resampled whole.
    seed
        Of the run; resamples are a pure function of it.
    num_resamples
        1,000 or more, so that a 95 % bound rests on 25 resamples beyond it.
    box
        How four numbers are a box, where they are one.
    """

    kind: str
    truth: npt.NDArray[np.generic]
    groups: Sequence[str] | None = None
    seed: int = 0
    num_resamples: int = NUM_RESAMPLES
    box: str | None = None
    _counts: npt.NDArray[np.uint16] = field(init=False, repr=False)
    _margins: dict[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.truth) == 0:
            raise ValueError("nothing to judge: no sample has a target")
        self._counts = resample_counts(len(self.truth), self.groups, self.seed, self.num_resamples)
        self._margins = self._margins_of_shares()

    @property
    def counts_NB(self) -> npt.NDArray[np.uint16]:
        """How often each sample stands in each resample."""
        return self._counts

    def judge(self, scores_RNK: npt.NDArray[np.floating]) -> Judged:
        """Metrics of one arm, as the mean over its R draws.

        Parameters
        ----------
        scores_RNK
            Scores of the same samples, in the order of `truth`, for each draw.
        """
        num_draws, num_samples, _ = scores_RNK.shape
        if num_samples != len(self.truth):
            raise ValueError(f"expected scores of {len(self.truth)} samples, found {num_samples}")
        per_draw = [self._one_draw(scores_NK) for scores_NK in scores_RNK]
        weights_RB = draw_weights(num_draws, self.seed, self.num_resamples)
        names = per_draw[0].keys()
        # column 0 of each is the plain metric
        tables = {name: np.stack([draw[name] for draw in per_draw]) for name in names}
        return Judged(
            point={name: float(table[:, 0].mean()) for name, table in tables.items()},
            resampled={name: (table[:, 1:] * weights_RB).sum(axis=0) for name, table in tables.items()},
            margins=self._margins,
        )

    def left_out(self, scores_NK: npt.NDArray[np.floating], metric: str) -> Array:
        """A metric on the samples that each resample left out, [B]; NaN where it left none out."""
        step = max(1, _BLOCK_ENTRIES // len(self.truth))
        parts = []
        for start in range(0, self.num_resamples, step):
            weights = (self._counts[:, start : start + step] == 0).astype(np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):  # where none was left out
                parts.append(weighted_metrics(self.kind, self.truth, scores_NK, weights, self.box)[metric])
        return np.concatenate(parts)

    def _margins_of_shares(self) -> dict[str, float]:
        """Clopper-Pearson margin of the metrics that are shares of samples, or reach 1 where all are right.

        Balanced accuracy, macro F1 and what else is a mean over classes weigh them alike, so each class counts with as
        many groups as the smallest has: a bound that is never too near.
        """
        if self.kind == "number":
            return {}
        groups = np.arange(len(self.truth)) if self.groups is None else np.asarray(self.groups, dtype=str)
        if self.kind == "multilabel":
            having = [groups[column_N == 1] for column_N in self.truth.T]
        elif self.kind == "dense":
            codes = np.unique(self.truth)
            having = [groups[(self.truth == code).any(axis=1)] for code in codes[codes >= 0]]
        else:
            having = [groups[self.truth == code] for code in np.unique(self.truth)]
        of_classes = [len(np.unique(of_class)) for of_class in having if len(of_class)]
        every = _boundary_margin(len(np.unique(groups)))
        balanced = _boundary_margin(len(of_classes) * min(of_classes)) if of_classes else every
        if self.kind == "multilabel":
            return {"micro_f1": every, "macro_f1": balanced, "map": balanced}
        if self.kind == "dense":
            return {"accuracy": every, "macro_f1": balanced, "mean_iou": balanced}
        return {"accuracy": every, "balanced_accuracy": balanced, "macro_f1": balanced}

    def _one_draw(self, scores_NK: npt.NDArray[np.floating]) -> dict[str, Array]:
        """Each metric on all samples, followed by each resample."""
        step = max(1, _BLOCK_ENTRIES // len(self.truth))
        blocks = [np.ones((len(self.truth), 1))]
        parts = [weighted_metrics(self.kind, self.truth, scores_NK, blocks[0], self.box)]
        for start in range(0, self.num_resamples, step):
            weights = self._counts[:, start : start + step].astype(np.float64)
            parts.append(weighted_metrics(self.kind, self.truth, scores_NK, weights, self.box))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def resample_counts(
    num_samples: int, groups: Sequence[str] | None, seed: int, num_resamples: int
) -> npt.NDArray[np.uint16]:
    """How often each sample stands in each resample, [N, B].

    As many groups as there are, drawn with replacement; a sample counts as often as its group.
    """
    if groups is None:
        num_groups, member_N = num_samples, np.arange(num_samples)
    else:
        names, member_N = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        num_groups = len(names)
    rng = np.random.default_rng([seed, 0])
    counts_GB = np.empty((num_groups, num_resamples), np.uint16)
    for column in range(num_resamples):
        drawn = rng.integers(num_groups, size=num_groups)
        counts_GB[:, column] = np.bincount(drawn, minlength=num_groups)
    return counts_GB if groups is None else counts_GB[member_N]


def draw_weights(num_draws: int, seed: int, num_resamples: int) -> Array:
    """Weight of each draw in each resample, [R, B]; columns sum to one."""
    if num_draws == 1:
        return np.ones((1, num_resamples))
    rng = np.random.default_rng([seed, 1])
    counts_RB = np.stack(
        [
            np.bincount(rng.integers(num_draws, size=num_draws), minlength=num_draws)
            for _ in range(num_resamples)
        ],
        axis=1,
    )
    weights: Array = counts_RB / num_draws
    return weights


def _boundary_margin(num: int) -> float:
    """Upper bound of a share that was 0 in `num` samples: 1 - (alpha / 2)^(1 / num)."""
    return float(1 - ((1 - LEVEL) / 2) ** (1 / num))


def percentiles(values_B: Array) -> tuple[float, float]:
    """Bounds of the central `LEVEL`; resamples in which the metric has no value are left out."""
    values_B = values_B[np.isfinite(values_B)]
    if len(values_B) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(values_B, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
