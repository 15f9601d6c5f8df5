"""Numbers, scales and drawings, against closed forms."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedpipe.report.confusion import read_confusion
from embedpipe.report.curves import layer_panels, learning_curve
from embedpipe.report.figures import Estimate, estimate, get_metric, k_order, number
from embedpipe.report.headline import differences
from embedpipe.report.rows import bar
from embedpipe.report.styles import assign_styles
from embedpipe.report.svg import spread, tick_text, ticks

ACCURACY = get_metric("accuracy")


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("accuracy", 0.9214, "92.1\u202f%"),
        ("balanced_accuracy", 1.0, "100.0\u202f%"),
        ("r2", -0.0321, "\u22120.032"),
        ("r2", -0.00001, "\u22121e-05"),
        ("mae", 12345.0, "1.23e+04"),
        ("nll", 0.0, "0.000"),
        ("never_heard_of", 0.5, "0.500"),
        ("accuracy", None, "–"),
    ],
)
def test_scores_are_written_by_metric(metric, value, shown):
    assert get_metric(metric).text(value) == shown


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("accuracy", 0.101, "+10.1"),
        ("accuracy", -0.101, "\u221210.1"),
        ("accuracy", -0.0001, "0.0"),
        ("accuracy", 0.0, "0.0"),
        ("r2", 0.0321, "+0.032"),
        ("accuracy", None, "–"),
    ],
)
def test_differences_have_signs_and_zero_has_none(metric, value, shown):
    assert get_metric(metric).difference(value) == shown


@pytest.mark.parametrize("raw", [float("nan"), float("inf"), "0.5", None, True, [], 10**400])
def test_what_is_no_finite_number_is_missing(raw):
    assert number(raw) is None


def test_half_an_interval_counts_as_none():
    assert estimate({"value": 0.5, "ci_low": 0.4, "ci_high": None}) == Estimate(0.5)


def test_all_labels_come_after_any_count():
    assert sorted(["all", 20, 1, 5], key=k_order) == [1, 5, 20, "all"]


def test_axis_of_shares_stays_within_0_and_1():
    assert ACCURACY.domain([Estimate(0.99, 0.97, 1.0), Estimate(0.02, 0.0, 0.1)]) == (0.0, 1.0)


def test_one_wild_arm_does_not_flatten_an_r2_axis():
    low, high = get_metric("r2").domain([Estimate(-1e6), Estimate(0.8)])
    assert -1 < low <= -0.5 and high > 0.8


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_even_and_inside(low, span):
    high = low + span
    shown = ticks(low, high)
    assert 2 <= len(shown) <= 12
    slack = 1e-6 * max(abs(low), abs(high), span)
    assert all(low - slack <= tick <= high + slack for tick in shown)
    np.testing.assert_allclose(np.diff(shown), shown[1] - shown[0], rtol=1e-3, atol=1e-9)


def test_tick_labels_have_the_decimals_they_need():
    shown = ticks(0.0, 0.1, 4)
    assert [tick_text(tick, shown, percent=True) for tick in shown] == ["0.0", "2.5", "5.0", "7.5", "10.0"]
    assert tick_text(-0.5, [-0.5, 0.0], percent=False) == "\u22120.5"


@given(st.lists(st.floats(0, 100), max_size=12))
def test_labels_keep_their_order_and_their_distance(wanted):
    placed = spread(wanted, 10, 0, 100)
    gap = min(10, 100 / max(len(wanted) - 1, 1))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in placed)
    assert all(b - a >= gap - 1e-6 for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False))
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    assert order == sorted(range(len(wanted)), key=lambda i: (placed[i], i))


def test_bar_lies_where_the_interval_lies():
    drawn = str(bar(Estimate(0.5, 0.25, 0.75), 0.0, 1.0))
    assert "left:25.0%;width:50.0%" in drawn and '<b style="left:50.0%">' in drawn
    assert bar(Estimate(None), 0.0, 1.0) == ""


def test_bar_beyond_its_cell_is_cut_at_the_edge():
    drawn = str(bar(Estimate(-4.0, -5.0, 0.5), 0.0, 1.0))
    assert "left:0.0%;width:50.0%" in drawn and '<b style="left:0.0%">' in drawn


def curve_rows(**values):
    return [
        {
            "backbone": name,
            "role": "transferred",
            "k_shot": k,
            "value": v,
            "ci_low": v - 0.05,
            "ci_high": v + 0.05,
        }
        for name, scores in values.items()
        for k, v in scores.items()
    ]


def test_learning_curve_rises_where_scores_rise():
    rows = curve_rows(net={"all": 0.9, 1: 0.3, 5: 0.7})
    drawn = str(learning_curve(rows, ACCURACY, assign_styles(rows)))
    path = re.search(r'<path d="M([^"]+)" class="curve', drawn)
    assert path
    places = [tuple(map(float, point.split())) for point in path[1].split("L")]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    # pixels go down as scores go up, in proportion
    (_, y1), (_, y5), (_, y_all) = places
    assert (y1 - y5) / (y5 - y_all) == pytest.approx((0.7 - 0.3) / (0.9 - 0.7), rel=0.01)
    assert [m for m in re.findall(r'class="tick" text-anchor="middle">([^<]+)<', drawn)] == ["1", "5", "all"]


def test_learning_curve_of_one_point_has_no_line():
    rows = curve_rows(net={"all": 0.9})
    drawn = str(learning_curve(rows, ACCURACY, assign_styles(rows)))
    assert 'class="curve' not in drawn and 'class="mark' in drawn


def test_curve_without_numbers_is_not_drawn():
    assert learning_curve([{"backbone": "net", "k_shot": 5, "value": float("nan")}], ACCURACY, {}) is None
    assert layer_panels([], ACCURACY, {}) == []


def layer_rows(shots):
    return [
        {
            "backbone": name,
            "role": role,
            "tap": f"{node}.gap",
            "node": node,
            "reduction": "gap",
            "depth": depth,
        }
        | {"k_shot": k, "value": 0.5 + depth / 4, "ci_low": 0.4, "ci_high": 0.8}
        for k in shots
        for name, role, node, depth in [
            ("net", "transferred", "a", 0.5),
            ("net", "transferred", "b", 1.0),
            ("pixels", "pixels", "p", 0.0),
        ]
    ]


def test_layer_curves_show_the_headlines_number_of_labels_and_all():
    rows = layer_rows([1, 5, 20, "all"])
    panels = layer_panels(rows, ACCURACY, assign_styles(rows), few=5)
    assert [panel.title for panel in panels] == ["5 labels a class", "all labels"]
    panels = layer_panels(rows, ACCURACY, assign_styles(rows), few=7)
    assert [panel.title for panel in panels] == ["1 label a class", "all labels"]


def test_backbone_with_one_tap_is_a_level_line():
    rows = layer_rows(["all"])
    (panel,) = layer_panels(rows, ACCURACY, assign_styles(rows))
    assert str(panel.drawing).count('class="curve level c2"') == 1
    assert str(panel.drawing).count('class="curve c0"') == 1


def test_interval_clear_of_zero_is_told_from_one_that_holds_it():
    rows = [
        {"name": "a - b", "value": 0.1, "ci_low": 0.05, "ci_high": 0.15},
        {"name": "a - c", "value": 0.1, "ci_low": -0.05, "ci_high": 0.25},
    ]
    drawn = str(differences(rows, ACCURACY))
    assert drawn.count('class="span good"') == 1 and drawn.count('class="span unsure"') == 1


def test_confusion_counts_stand_where_they_belong():
    confusion = read_confusion({"classes": ["a", "b"], "counts": [[7, 3], [0, 10]]}, max_classes=40)
    assert confusion is not None
    assert "a taken for b\n3 of 10 (30%)" in confusion.drawing
    assert "b taken for a" not in confusion.drawing
    assert [(m.true, m.predicted, m.count, m.share) for m in confusion.mistakes] == [
        ("a", "b", "3", "30\u202f%")
    ]


def test_large_confusion_keeps_the_classes_with_most_errors():
    size = 300
    counts = np.eye(size, dtype=int) * 10
    counts[17, 203] = 9
    confusion = read_confusion(
        {"classes": [f"c{i}" for i in range(size)], "counts": counts.tolist()}, max_classes=40
    )
    assert confusion is not None
    assert (confusion.num_drawn, confusion.num_classes) == (40, 300)
    assert "c17 taken for c203" in confusion.drawing


@pytest.mark.parametrize(
    "raw", [None, {}, {"classes": ["a"], "counts": [[1, 2]]}, {"classes": ["a"], "counts": []}]
)
def test_no_matrix_is_no_drawing(raw):
    assert read_confusion(raw, max_classes=40) is None


def test_colours_belong_to_roles_and_stay():
    points = [{"backbone": "px", "role": "pixels"}, {"backbone": "net", "role": "transferred"}]
    styles = assign_styles(points)
    assert (styles["net"].class_, styles["px"].class_) == ("c0", "c2")
    more = assign_styles(
        [*points, {"backbone": "rand", "role": "random"}, {"backbone": "zoo", "role": "transferred"}]
    )
    assert (more["net"].class_, more["px"].class_, more["rand"].class_) == ("c0", "c2", "c1")
    assert more["zoo"].class_ == "c3"


def test_many_backbones_share_the_palette():
    styles = assign_styles([{"backbone": f"b{i:02}", "role": "transferred"} for i in range(30)])
    assert {style.colour for style in styles.values()} <= set(range(8))
