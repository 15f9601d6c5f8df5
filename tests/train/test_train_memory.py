"""Training beyond memory: the same heads to the bit, and a plain refusal where a family cannot stream."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from embedpipe.errors import ConfigError, DataError
from embedpipe.train.memory import allowed_nbytes

STREAMING = {
    "ridge": {"alpha": [1.0, 100.0]},
    "logistic": {"C": [0.1, 1.0]},
    "lda": {},
    "centroid": {},
}


def test_features_that_do_not_fit_give_the_same_files_to_the_bit(make_bench, tmp_path):
    bench = make_bench(heads=STREAMING)
    bench.train()
    whole = bench.outputs()
    shutil.rmtree(bench.paths.memo_dir)
    moments_dir = tmp_path / "moments"
    bench.train(memory_nbytes=1, paths=replace(bench.paths, moments_dir=moments_dir))
    assert bench.outputs() == whole
    kept = [path.relative_to(moments_dir).parts[0] for path in moments_dir.glob("*/*/task-*.npz")]
    assert len(kept) == len(set(kept)) > 1  # one of each tap, whatever the number of families


def test_a_family_that_cannot_stream_says_what_to_do(make_bench):
    heads = {"bayes": {"family": "sklearn:naive_bayes.GaussianNB"}}
    bench = make_bench(heads=heads, compare={"k_shot": ["all"]})
    with pytest.raises(
        DataError, match=r"task 'colour', arm 'bayes@net/a.gap': .* needs .*EMBEDPIPE_MEMORY_GB"
    ):
        bench.train(memory_nbytes=100)


def test_the_limit_is_read_from_the_environment(monkeypatch):
    assert allowed_nbytes() > 0
    monkeypatch.setenv("EMBEDPIPE_MEMORY_GB", "1.5")
    assert allowed_nbytes() == 1_500_000_000
    monkeypatch.setenv("EMBEDPIPE_MEMORY_GB", "lots")
    with pytest.raises(
        ConfigError, match="EMBEDPIPE_MEMORY_GB: expected a number of gigabytes above 0, found 'lots'"
    ):
        allowed_nbytes()
