"""Screens of taps, each against an independent reference, and the audit of their ranking."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from embedpipe.screen import SCREENS, screens
from embedpipe.screen.audit import audit
from embedpipe.screen.screens import (
    chosen_rows,
    evidence_of,
    left_out_ridge,
    left_out_votes,
    screen,
    screen_metric,
)

ALONE = np.arange(60)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=60)
    X = (2 * np.eye(3)[codes] @ rng.normal(size=(3, 8)) + rng.normal(size=(60, 8))).astype(np.float32)
    return X, codes


def test_votes_of_the_other_rows_equal_scikit_learn_leaving_one_out(rows, monkeypatch):
    X, codes = rows
    monkeypatch.setattr(screens, "_QUERIES", 7)

    def weights(distance):  # softmax of cosine similarity over the temperature
        return np.exp((1 - distance - 1) / 0.07)

    knn = KNeighborsClassifier(10, metric="cosine", weights=weights, algorithm="brute")
    expected = cross_val_predict(knn, X, codes, cv=LeaveOneOut(), method="predict_proba")
    np.testing.assert_allclose(left_out_votes(X, np.eye(3)[codes], ALONE), expected, atol=1e-4)


def test_ridge_leaves_each_row_out_exactly(rows):
    X, codes = rows
    Z, Y = StandardScaler().fit_transform(X.astype(np.float64)), np.eye(3)[codes]
    expected = cross_val_predict(Ridge(screens.ALPHAS[2]), Z, Y, cv=LeaveOneOut())
    np.testing.assert_allclose(left_out_ridge(X, Y, ALONE)[2], expected, atol=1e-6)


def test_a_row_is_never_judged_by_its_own_group():
    """Pairs of copies with random labels: a screen that sees the copy finds them easy."""
    rng = np.random.default_rng(1)
    X = np.repeat(rng.normal(size=(200, 20)), 2, axis=0)
    codes = np.repeat(rng.integers(2, size=200), 2)
    groups = [f"g{i // 2}" for i in range(400)]
    naive = screen(X, codes, kind="classes", num_classes=2)
    honest = screen(X, codes, kind="classes", num_classes=2, groups=groups)
    assert naive.knn > 0.95
    assert honest.knn == pytest.approx(0.5, abs=0.1) and honest.ridge == pytest.approx(0.5, abs=0.12)


def test_evidence_of_wide_rows_does_not_depend_on_the_form():
    """Columns of zeros beyond the rows' rank say nothing, and a rotation of the columns neither."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(30, 12)), rng.normal(size=(30, 1))
    turned = np.hstack([X, np.zeros((30, 40))]) @ np.linalg.qr(rng.normal(size=(52, 52)))[0]
    assert evidence_of(turned, y) == pytest.approx(evidence_of(X, y), rel=1e-8)


def test_informative_features_rank_above_noise_in_every_screen(rows):
    X, codes = rows
    good = screen(X, codes, kind="classes", num_classes=3)
    noise = screen(np.random.default_rng(3).normal(size=X.shape), codes, kind="classes", num_classes=3)
    assert all(getattr(good, name) > getattr(noise, name) for name in SCREENS)
    target = X @ np.ones(8) + 0.1
    numbers = screen(X, target, kind="number")
    assert numbers.ridge > 0.99 and numbers.metric == "r2"


def test_screens_speak_of_winners_where_probabilities_would_be_needed():
    assert screen_metric("classes", "nll") == screen_metric("classes", "auroc") == "balanced_accuracy"
    assert (screen_metric("classes", "macro_f1"), screen_metric("number", "mae")) == ("macro_f1", "mae")


def test_many_rows_are_thinned_to_a_fixed_choice():
    assert len(chosen_rows(100, 0)) == 100
    drawn = chosen_rows(20_000, 0)
    assert len(drawn) == len(np.unique(drawn)) == screens.MOST_ROWS
    np.testing.assert_array_equal(drawn, chosen_rows(20_000, 0))
    assert len(chosen_rows(20_000, 0, 25_000)) == 2000 and len(chosen_rows(20_000, 0, 10**9)) == 500


def made(values, metric="balanced_accuracy"):
    return [
        {"backbone": "net", "tap": f"t{i}", "knn": one, "ridge": -one, "logme": 1.0, "metric": metric}
        for i, one in enumerate(values)
    ]


def test_the_audit_is_the_rank_correlation_with_trained_heads():
    values, trained = [0.1, 0.4, 0.3, 0.9], [0.2, 0.3, 0.5, 0.8]
    found = audit(made(values), {("net", f"t{i}"): one for i, one in enumerate(trained)}, "accuracy")
    knn = found["screens"]["knn"]
    assert found["num_taps"] == 4
    assert knn["kendall"] == pytest.approx(stats.kendalltau(values, trained).statistic)
    assert knn["spearman"] == pytest.approx(stats.spearmanr(values, trained).statistic)
    assert knn["regret"] == 0 and knn["first"] == {"backbone": "net", "tap": "t3"}
    assert found["screens"]["ridge"]["regret"] == pytest.approx(0.8 - 0.2)
    assert found["screens"]["logme"]["kendall"] is None  # says the same of every tap


def test_losses_are_turned_round_before_they_are_ranked():
    trained = {("net", f"t{i}"): one for i, one in enumerate([3.0, 2.0, 1.0])}
    found = audit(made([3.0, 2.0, 1.0], metric="mae"), trained, "mae")["screens"]
    assert found["knn"]["kendall"] == pytest.approx(1.0) and found["knn"]["regret"] == 0
    assert found["ridge"]["kendall"] == pytest.approx(-1.0) and found["ridge"]["regret"] == pytest.approx(2.0)


def test_two_taps_are_too_few_to_audit():
    found = audit(made([0.1, 0.2]), {("net", "t0"): 0.5, ("net", "t1"): 0.6}, "accuracy")
    assert found["screens"]["knn"]["kendall"] is None


def test_labels_are_screened_by_a_metric_of_ranks_and_what_is_unknown_is_left_out():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(80, 4)).astype(np.float32)
    labels = (X[:, :2] > 0).astype(float)
    labels[::5, 1] = np.nan
    found = screen(X, labels, kind="multilabel", num_classes=2, by="nll")
    assert found.metric == "map" and found.ridge > 0.9 and found.knn > 0.8
    noise = screen(X, rng.permutation(labels), kind="multilabel", num_classes=2)
    assert noise.ridge < found.ridge and noise.logme < found.logme


def test_several_numbers_are_screened_together():
    rng = np.random.default_rng(6)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    assert screen(X, X[:, :2] * [1, 100], kind="number").ridge > 0.99
