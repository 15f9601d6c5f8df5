"""Which heads and backbones do well across tasks: mean ranks, and whether there are tasks enough to tell.

A rank needs no common metric, so tasks of classes and of numbers count alike. Each head stands with its best tap
and backbone on validation, each backbone with its best tap and head; majority and shuffled labels take no part.

References
----------
Demsar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, section 3.2 (Friedman and
Nemenyi; the number of data sets from which they hold).
"""

# T tasks, M competitors

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from embedpipe.evaluate.arms import ALL
from embedpipe.evaluate.evidence import Evidence
from embedpipe.evaluate.metrics import sign_of

FEWEST_TASKS = 10
"""Below it Friedman's statistic is not chi-squared, and no difference of mean ranks is called one."""
LEVEL = 0.05


def ranks(evidences: Mapping[str, Evidence]) -> dict[str, Any]:
    """Ranks of heads and of backbones over the tasks that have them all.

    Returns
    -------
    dict
        ``heads`` and ``backbones``, each as `ranking` has it; None where fewer than two competitors or tasks
        can be ranked.
    """
    return {
        what: ranking(_scores(evidences, name))
        for what, name in (("heads", "head"), ("backbones", "backbone"))
    }


def ranking(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """Rank competitors over tasks.

    Parameters
    ----------
    scores
        For each task the score of each competitor, more is better.

    Returns
    -------
    dict
        ``tasks``, ``mean_ranks`` (1 is best; ties share), ``friedman_p``, ``critical_difference`` (of mean ranks,
        at 5 %) and ``note``; the two statistics are null where there are too few tasks, and the note says so.
        Competitors that some task lacks are left out, and named in ``left_out``.
    """
    everyone = list(dict.fromkeys(name for of_task in scores.values() for name in of_task))
    names = [name for name in everyone if all(name in of_task for of_task in scores.values())]
    if len(names) < 2 or len(scores) < 2:
        return None
    table_TM = np.array([[of_task[name] for name in names] for of_task in scores.values()])
    mean_M = rank_table(table_TM).mean(axis=0)
    order = sorted(range(len(names)), key=lambda place: (mean_M[place], place))
    found: dict[str, Any] = {
        "tasks": list(scores),
        "mean_ranks": {names[place]: float(mean_M[place]) for place in order},
        "left_out": [name for name in everyone if name not in names],
        "friedman_p": None,
        "critical_difference": None,
        "note": None,
    }
    if len(scores) < FEWEST_TASKS:
        found["note"] = (
            f"{len(scores)} tasks are too few to test: Friedman's and Nemenyi's tests need {FEWEST_TASKS} or more"
        )
        return found
    if len(names) > 2:
        p = float(friedmanchisquare(*table_TM.T).pvalue)
        found["friedman_p"] = p if math.isfinite(p) else None
    found["critical_difference"] = critical_difference(len(names), len(scores))
    return found


def rank_table(table_TM: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rank of each competitor in each task, 1 for the highest score; ties share."""
    ranked: npt.NDArray[np.float64] = rankdata(-table_TM, axis=1)
    return ranked


def critical_difference(num: int, num_tasks: int) -> float:
    """Nemenyi's: mean ranks further apart differ at 5 %."""
    quantile = studentized_range.ppf(1 - LEVEL, num, np.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(num * (num + 1) / (6 * num_tasks)))


def _scores(evidences: Mapping[str, Evidence], of: str) -> dict[str, dict[str, float]]:
    """Best finite validation score of each head or backbone in each task, signed so that more is better."""
    table: dict[str, dict[str, float]] = {}
    for task, evidence in evidences.items():
        sign = sign_of(evidence.metric)
        best: dict[str, float] = {}
        for row in evidence.head_rows(ALL):
            value = sign * evidence.value(row["arm"])
            if row["role"] != "none" and math.isfinite(value):
                best[row[of]] = max(best.get(row[of], -math.inf), value)
        table[task] = best
    return table
