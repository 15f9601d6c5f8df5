"""Heads of a few labels that arms start from are the ones that training fits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from embedpipe.heads import registry
from embedpipe.heads.rows import ArrayRows
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.train.samples import TaskSamples
from embedpipe.transfer.start import Starts


def test_a_start_head_counts_samples_as_their_weights_say(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    x_ND = generator.normal(size=(12, 3)).astype(np.float32)
    names = np.array([f"s{i}" for i in range(12)])
    samples = TaskSamples(
        task="t",
        spec=TargetSpec("classes", ("a", "b")),
        sample_ids=names,
        splits=np.array(["train"] * 12),
        groups=names,
        keys={"image": np.zeros((12, 16), np.uint8)},
        truth=np.array([0, 1] * 6),
        num={},
        dropped=(),
        weight=np.array([1.0, 3.0, 1.0, 2.0, 1.0, 1.0] * 2),
    )
    unit = SimpleNamespace(parts=(), family="ridge", few_shot=(), fixed={})
    monkeypatch.setattr("embedpipe.transfer.start.read_parts", lambda *_: None)
    monkeypatch.setattr("embedpipe.transfer.start.seen_by", lambda *_: ArrayRows(x_ND))
    scores = {"metric": "accuracy", "arms": []}
    starts = Starts(
        samples, {}, {"ridge@x": unit}, scores, {}, Path(), seed=0, memory_nbytes=1 << 30  # type: ignore[dict-item]
    )  # fmt: skip
    labelled = np.arange(6)
    found = starts._fit("ridge@x", {"alpha": 1.0}, labelled)
    assert samples.weight is not None
    repeated = np.repeat(labelled, samples.weight[:6].astype(int))
    (expected,) = registry.fit_grid(
        "ridge", [{"alpha": 1.0}], x_ND[repeated], samples.truth[repeated], kind="classes", seed=0
    )
    (plain,) = registry.fit_grid(
        "ridge", [{"alpha": 1.0}], x_ND[:6], samples.truth[:6], kind="classes", seed=0
    )
    wanted, unweighted = (head.decision_function(x_ND) for head in (expected, plain))
    np.testing.assert_allclose(found.decision_function(x_ND), wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(wanted - unweighted).max() > 1e-2
