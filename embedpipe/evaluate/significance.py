"""Which arms can be told from the best: paired tests of every arm against it, corrected for their number.

Two tests. The paired bootstrap tests the difference in the selecting metric, whatever that is, and respects
groups; it decides. McNemar's exact test compares how often each of the two alone is right; it needs neither
resamples nor a normal limit, and stands beside where samples are independent. Holm's correction makes the set
of arms that are not told apart hold the truly best one with at least 95 %: every other arm is compared with
the same one, and an arm leaves the set only for being beaten by more than the number of comparisons explains.

Knows nothing of how arms were made.

References
----------
Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 16.4 (tests from bootstrap errors).
McNemar 1947, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12.
Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
Hsu 1981, "Simultaneous confidence intervals for all distances from the 'best'" (why the set holds the best).
"""

# N samples, B resamples, M arms

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

from embedpipe.evaluate.arms import ALL
from embedpipe.evaluate.bootstrap import Interval
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import sign_of

LEVEL = 0.05
"""Chance that the set of ties leaves the truly best arm out."""


@dataclass(frozen=True)
class McNemar:
    """Samples that one of two arms alone has right, and how surprising their imbalance is.

    Attributes
    ----------
    better, worse : int
        Samples that this arm alone, and the best arm alone, has right.
    p : float
        Two-sided exact binomial p-value; 1 where they never differ.
    """

    better: int
    worse: int
    p: float


@dataclass(frozen=True)
class Contrast:
    """One arm against the best.

    Attributes
    ----------
    difference : Interval
        The arm minus the best, in the metric's own unit.
    p, p_holm : float
        Of the paired bootstrap, two-sided, alone and corrected for the number of arms.
    mcnemar : McNemar or None
        None for numbers, for several draws, and where samples come in groups.
    mcnemar_holm : float or None
    """

    arm: str
    difference: Interval
    p: float
    p_holm: float
    mcnemar: McNemar | None
    mcnemar_holm: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the arm can be told from the best after correction."""
        return self.p_holm < LEVEL

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "arm": self.arm,
            **self.difference.to_dict(),
            "p": self.p,
            "p_holm": self.p_holm,
            "mcnemar": None,
        }
        if self.mcnemar is not None:
            found["mcnemar"] = {
                "better": self.mcnemar.better,
                "worse": self.mcnemar.worse,
                "p": self.mcnemar.p,
                "p_holm": self.mcnemar_holm,
            }
        return found


def contrasts(evidence: Evidence, best: str, arms: Sequence[str] | None = None) -> list[Contrast]:
    """Every arm at all labels against `best`, nearest first.

    Parameters
    ----------
    arms
        Those to compare; default: all that have predictions. Each enters the correction.
    """
    ahead = evidence.judged(best)
    names = [row["arm"] for row in evidence.rows(ALL)] if arms is None else list(arms)
    names = [arm for arm in names if arm != best and np.isfinite(evidence.value(arm))]
    differences = {arm: evidence.judged(arm).minus(ahead, evidence.metric) for arm in names}
    p_values = {
        arm: bootstrap_p(
            differences[arm].value,
            evidence.judged(arm).resampled[evidence.metric] - ahead.resampled[evidence.metric],
        )
        for arm in names
    }
    exact = _mcnemars(evidence, best, names)
    corrected, exact_corrected = holm(p_values), holm({arm: one.p for arm, one in exact.items()})
    found = [
        Contrast(
            arm, differences[arm], p_values[arm], corrected[arm], exact.get(arm), exact_corrected.get(arm)
        )
        for arm in names
    ]
    sign = sign_of(evidence.metric)
    return sorted(found, key=lambda one: (-sign * one.difference.value, one.arm))


def bootstrap_p(difference: float, resampled_B: npt.NDArray[np.float64]) -> float:
    """Two-sided p-value of a paired difference: its distance from 0 in bootstrap standard errors.

    Not the share of resamples beyond 0: with B resamples that is never below 1/B, and after a correction for
    many arms none could be told apart.
    """
    finite_B = resampled_B[np.isfinite(resampled_B)]
    error = float(finite_B.std(ddof=1)) if len(finite_B) > 1 else float("nan")
    if difference == 0:
        return 1.0
    if not np.isfinite(difference) or not np.isfinite(error) or error == 0:
        return 1.0  # nothing varies that the difference could be measured by
    return float(2 * norm.sf(abs(difference) / error))


def mcnemar(right_N: npt.NDArray[np.bool_], best_right_N: npt.NDArray[np.bool_]) -> McNemar:
    """Exact test on the samples that exactly one of two arms has right."""
    better = int((right_N & ~best_right_N).sum())
    worse = int((~right_N & best_right_N).sum())
    if better + worse == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(better, worse, float(binomtest(better, better + worse).pvalue))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: below a level for those that the step-down procedure rejects at it."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda one: (p_values[one], one))):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def _mcnemars(evidence: Evidence, best: str, names: Sequence[str]) -> dict[str, McNemar]:
    if evidence.kind != "classes" or evidence.judge.groups is not None:
        return {}
    truth_N = evidence.truth.astype(np.int64)

    def right(arm: str) -> npt.NDArray[np.bool_] | None:
        scores_RNK = evidence.predictions.scores(arm).at(evidence.sample_ids)
        if len(scores_RNK) > 1:
            return None
        right_N: npt.NDArray[np.bool_] = scores_RNK[0].argmax(axis=1) == truth_N
        return right_N

    best_right_N = right(best)
    if best_right_N is None:
        return {}
    found = {arm: right(arm) for arm in names}
    return {arm: mcnemar(right_N, best_right_N) for arm, right_N in found.items() if right_N is not None}
