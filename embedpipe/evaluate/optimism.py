"""How much better the selected arm looks on validation than it is: the price of having chosen it there.

The best of many is best partly by luck. To see how much, the choice is made again on each bootstrap resample of
the validation samples, and judged on the samples that the resample left out.

References
----------
Tsamardinos et al. 2018, "Bootstrapping the out-of-sample predictions for efficient and accurate
cross-validation", Machine Learning 107, section 4 (BBC-CV).
Tibshirani and Tibshirani 2009, "A bias correction for the minimum error rate in cross-validation" (the bias).
"""

# N samples, B resamples, M arms

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedpipe.evaluate.bootstrap import Interval
from embedpipe.evaluate.candidates import Candidates
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import Array, sign_of


@dataclass(frozen=True)
class Optimism:
    """The selected figure as it stands, and corrected for having been selected.

    Attributes
    ----------
    naive : float
        The best arm's own figure.
    corrected : Interval
        Mean over resamples of what the arm best on the resample reaches on the samples left out.
    num_arms, num_candidates : int
        Arms that competed, and the candidates of them that are known: as many as arms where only the best
        candidate of each is.
    num_winners : int
        Different candidates that were best on some resample.
    """

    naive: float
    corrected: Interval
    num_arms: int
    num_candidates: int
    num_winners: int

    @property
    def bias(self) -> float:
        """How much too good the naive figure is, in the metric's own unit; 0 where it is not."""
        return self.naive - self.corrected.value

    def to_dict(self) -> dict[str, float | int | None]:
        bias = self.bias
        return {
            **self.corrected.to_dict(),
            "naive": self.naive,
            "bias": bias if np.isfinite(bias) else None,
            "num_arms": self.num_arms,
            "num_candidates": self.num_candidates,
            "num_winners": self.num_winners,
        }


def no_optimism(value: float, num_arms: int, num_candidates: int) -> Optimism:
    """Of a choice that was made on other samples: there is nothing to correct."""
    nan = float("nan")
    return Optimism(value, Interval(nan, nan, nan), num_arms, num_candidates, 0)


def optimism(
    evidence: Evidence, best: str, arms: Sequence[str], candidates: Candidates | None = None
) -> Optimism:
    """Of choosing `best` among `arms`, all at all labels.

    Parameters
    ----------
    candidates
        What every candidate of the arms says; without, the choice of hyperparameters within an arm, which was
        made on the same samples, is not counted.

    Notes
    -----
    A resample holds 63 % of the samples, so the choice made on it is a little worse than the one on all of
    them: the corrected figure errs, where it errs, on the low side.
    """
    metric, judge = evidence.metric, evidence.judge
    inside, outside = [], []
    for arm in arms:
        shown_CNK = None if candidates is None else candidates.at(arm, evidence.sample_ids)
        if shown_CNK is None:
            shown_CNK = evidence.predictions.scores(arm).at(evidence.sample_ids)[:1]
        for shown_NK in shown_CNK:
            if np.isfinite(shown_NK).all():
                inside.append(judge.judge(shown_NK[None]).resampled[metric])
                outside.append(judge.left_out(shown_NK, metric))
    corrected, winners = choose_again(np.stack(inside), np.stack(outside), sign_of(metric))
    return Optimism(evidence.value(best), corrected, len(arms), len(inside), winners)


def choose_again(inside_MB: Array, outside_MB: Array, sign: int) -> tuple[Interval, int]:
    """Choose on each resample, judge on what it left out.

    Parameters
    ----------
    inside_MB, outside_MB
        Metric of each arm on each resample, and on the samples that it left out; NaN where it has no value.
    sign
        1 where more is better, -1 where less is.

    Returns
    -------
    The mean over resamples with the central 95 % of them, and how many different arms were chosen.
    """
    ranked_MB = np.where(np.isfinite(inside_MB), sign * inside_MB, -np.inf)
    chosen_B = ranked_MB.argmax(axis=0)
    judged_B = outside_MB[chosen_B, np.arange(outside_MB.shape[1])]
    judged_B = judged_B[np.isfinite(judged_B)]
    if len(judged_B) == 0:
        return Interval(float("nan"), float("nan"), float("nan")), 0
    low, high = np.percentile(judged_B, [2.5, 97.5])
    return Interval(float(judged_B.mean()), float(low), float(high)), len(np.unique(chosen_B))
