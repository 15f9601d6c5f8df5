"""What a kept fit of an arm depends on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from embedpipe.manifest.kinds import TargetSpec
from embedpipe.train.samples import TaskSamples
from embedpipe.transfer.keys import Keys


def test_an_arm_is_fitted_anew_where_a_weight_of_zero_takes_a_sample_out() -> None:
    splits = np.array(["train"] * 4 + ["val"] * 2)
    samples = TaskSamples(
        task="t",
        spec=TargetSpec("classes", ("a", "b")),
        sample_ids=np.array(list("abcdef")),
        splits=splits,
        groups=np.array(list("abcdef")),
        keys={"image": np.zeros((6, 16), np.uint8)},
        truth=np.array([0, 1, 0, 1, 0, 1]),
        num={},
        dropped=(),
    )

    def key(weight: list[float] | None) -> object:
        weighed = dataclasses.replace(samples, weight=None if weight is None else np.array(weight))
        return Keys(weighed, "accuracy", 0, Path())._of_task

    whole = key([1.0, 1.0, 1.0, 1.0, np.nan, np.nan])
    assert key([1.0, 1.0, 0.0, 0.0, np.nan, np.nan]) != whole
    assert key([2.0, 3.0, 1.0, 1.0, np.nan, np.nan]) == whole, "arms weigh all others alike"
