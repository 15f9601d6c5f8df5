"""Presets: each stands for explicit options of a family, and what is written beside it wins."""

import numpy as np
import pytest

from embedpipe.errors import ConfigError
from embedpipe.heads.options import product
from embedpipe.heads.presets import PRESETS
from embedpipe.heads.registry import candidates, fit_grid, head_options


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_options_written_out(name):
    preset = PRESETS[name]
    by_name = head_options("probe", {"preset": name})
    assert by_name == head_options("probe", {"family": preset.family, **preset.options})
    assert preset.source and preset.differs
    assert candidates(by_name) == product(by_name.grid())


@pytest.mark.parametrize(
    ("name", "num", "low", "high"), [("clip_logistic", 96, 1e-6, 1e6), ("kornblith", 45, 1e-6, 1e5)]
)
def test_sweeps_have_the_published_ends_and_even_steps(name, num, low, high):
    C = np.array(head_options("x", {"preset": name}).C)
    assert len(C) == num and C[0] == pytest.approx(low) and C[-1] == pytest.approx(high)
    np.testing.assert_allclose(np.diff(np.log10(C)), np.log10(high / low) / (num - 1), rtol=1e-9)


def test_dinov2_rates_are_the_scripts_scaled_to_its_rows_a_step():
    options = head_options("x", {"preset": "dinov2_linear"})
    assert len(options.lr) == 13 and options.batch == (1024,)
    assert options.lr[0] == pytest.approx(1e-5 * 1024 / 256) and options.lr[-1] == pytest.approx(0.1 * 4)


def test_what_is_written_beside_a_preset_wins():
    options = head_options("x", {"preset": "dino_knn", "k": 20, "taps": ["last"]})
    assert (options.k, options.temperature, options.taps) == ((20,), (0.07,), ("last",))


def test_the_closed_form_decides_as_the_published_one():
    """Standardise, a large constant column, targets in {-1, 1}, one penalty on all: solved as its source has it."""
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=40)
    X = (rng.normal(size=(4, 12))[codes] + rng.normal(size=(40, 12))).astype(np.float32)
    rows = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-5)
    rows = np.hstack([rows, np.full((40, 1), 100.0)])
    penalty = 2.0**10 * np.eye(13)
    weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ (2 * np.eye(4)[codes] - 1))
    (head,) = fit_grid(
        "ridge",
        candidates(head_options("x", {"preset": "few_shot_closed_form"})),
        X,
        codes,
        kind="classes",
        seed=0,
    )
    margins = np.sort(rows @ weights, axis=1)
    clear = margins[:, -1] - margins[:, -2] > 1e-3
    assert clear.sum() > 30
    np.testing.assert_array_equal(head.predict(X)[clear], (rows @ weights).argmax(axis=1)[clear])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"heads.x.preset: no preset is named 'clip_logistc'.*clip_logistic"
    ):
        head_options("x", {"preset": "clip_logistc"})
    with pytest.raises(ConfigError, match="no preset is named 3; presets:"):
        head_options("x", {"preset": 3})


def test_a_preset_of_another_family_is_refused():
    with pytest.raises(ConfigError, match="preset 'dino_knn' is of family 'knn', found 'ridge'; drop one"):
        head_options("x", {"preset": "dino_knn", "family": "ridge"})
