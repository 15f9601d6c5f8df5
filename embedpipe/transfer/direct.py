"""The source classifier unchanged: a map from its classes to the target's labels, given or estimated, and LEEP.

Arithmetic on probabilities; knows nothing of models.

References
----------
Nguyen et al. 2020, "LEEP: A New Measure to Evaluate Transferability of Learned Representations", ICML, section 3 (the
expected empirical predictor, and the log of its mean over the labelled samples).
"""

# N labelled samples, Z source classes, K target classes

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ConfigError
from embedpipe.params import did_you_mean

Float = npt.NDArray[np.float64]
SMALLEST = 1e-12
"""Probability below which a source class says nothing of the labels."""


def expected_conditional(source_NZ: Float, codes_N: npt.NDArray[np.int64], num_classes: int) -> Float:
    """P(label | source class), float64 (Z, K), from what the source classifier says of labelled samples.

    A source class that it never gives stands for the labels as they are spread over all samples.
    """
    joint_ZK = np.zeros((source_NZ.shape[1], num_classes))
    for code in range(num_classes):
        joint_ZK[:, code] = source_NZ[codes_N == code].sum(axis=0)
    joint_ZK /= len(codes_N)
    marginal_Z = joint_ZK.sum(axis=1)
    prior_K = np.bincount(codes_N, minlength=num_classes) / len(codes_N)
    known_Z = marginal_Z > SMALLEST
    conditional_ZK = np.tile(prior_K, (len(marginal_Z), 1))
    conditional_ZK[known_Z] = joint_ZK[known_Z] / marginal_Z[known_Z, None]
    return conditional_ZK


def hard_assignment(source_NZ: Float, codes_N: npt.NDArray[np.int64], num_classes: int) -> Float:
    """0 and 1, float64 (Z, K): each source class is the label that it is found on most, by its probability.

    Labels are weighed as if each had the same number of samples. A source class that is never given is no label.
    """
    counts_K = np.bincount(codes_N, minlength=num_classes)
    conditional_ZK = np.zeros((source_NZ.shape[1], num_classes))
    for code in np.flatnonzero(counts_K):
        conditional_ZK[:, code] = source_NZ[codes_N == code].mean(axis=0)
    known_Z = conditional_ZK.sum(axis=1) > SMALLEST
    assigned_ZK = np.zeros_like(conditional_ZK)
    assigned_ZK[np.flatnonzero(known_Z), conditional_ZK[known_Z].argmax(axis=1)] = 1.0
    return assigned_ZK


def given_map(
    labels: Mapping[str, str], source_classes: Sequence[str], classes: Sequence[str], where: str
) -> Float:
    """0 and 1, float64 (Z, K), as the user wrote it.

    Raises
    ------
    ConfigError
        For a source class or label that does not exist; one line each.
    """
    problems = []
    assigned_ZK = np.zeros((len(source_classes), len(classes)))
    for source, label in labels.items():
        for what, name, known in (("source class", source, source_classes), ("label", label, classes)):
            if name not in known:
                shown = ", ".join(list(known)[:10]) + ("…" if len(known) > 10 else "")
                problems.append(
                    f"{where}.map: no {what} is named {name!r}{did_you_mean(name, list(known))}; there are {shown}"
                )
        if source in source_classes and label in classes:
            assigned_ZK[list(source_classes).index(source), list(classes).index(label)] = 1.0
    if problems:
        raise ConfigError("\n".join(problems))
    return assigned_ZK


def mapped(source_NZ: Float, assigned_ZK: Float) -> Float:
    """Probabilities of the labels, float64 (N, K): those of the source classes that stand for each.

    What falls on source classes that are no label is spread over all labels.
    """
    found_NK = source_NZ @ assigned_ZK
    rest_N1 = np.clip(1.0 - found_NK.sum(axis=1, keepdims=True), 0.0, None)
    spread_NK: Float = found_NK + rest_N1 / assigned_ZK.shape[1]
    return spread_NK


def leep(source_NZ: Float, codes_N: npt.NDArray[np.int64], num_classes: int) -> float:
    """Mean log of what the expected empirical predictor gives the true labels; at most 0, higher transfers better."""
    conditional_ZK = expected_conditional(source_NZ, codes_N, num_classes)
    right_N = (source_NZ * conditional_ZK.T[codes_N]).sum(axis=1)
    return float(np.log(np.maximum(right_N, np.finfo(np.float64).tiny)).mean())
