"""What the page says beside the leaderboard: optimism, tests, rates, calibration, screens, costs, ranks."""

import re
import runpy
from pathlib import Path

import pytest

from embedpipe.report import render_report
from embedpipe.report.cost import read_cost, seconds_text
from embedpipe.report.figures import get_metric
from embedpipe.report.paired import read_paired
from embedpipe.report.tables import (
    calibration_table,
    class_table,
    p_text,
    rank_table,
    screen_table,
    transfer_table,
)

ACCURACY = get_metric("accuracy")


@pytest.fixture(scope="module")
def made():
    return runpy.run_path(str(Path(__file__).with_name("make_sample.py")))


@pytest.fixture
def page(made, tmp_path):
    comparison, leaderboard, cards = made["make_sample"]()
    render_report(comparison, leaderboard, cards, tmp_path / "p.html", costs=made["make_costs"](leaderboard))
    return (tmp_path / "p.html").read_text()


def test_the_page_shows_all_of_it(page):
    for words in (
        "without what choosing among 12 candidates adds",
        "Score against cost",
        "Screened before training",
        "Do its probabilities mean what they say?",
        "Precision, recall and F1 of each class",
        "Across tasks",
        "3 tasks are too few to test.",
    ):
        assert words in page


def test_a_comparison_of_an_earlier_version_still_has_a_page(made, tmp_path):
    comparison, leaderboard, cards = made["make_sample"]()
    del comparison["ranks"]
    for task in comparison["tasks"].values():
        for name in ("optimism", "per_class", "calibration", "screen"):
            task.pop(name)
    render_report(comparison, leaderboard, cards, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "Screened before" not in page and "Across tasks" not in page and "Score against cost" not in page


def test_a_rate_without_a_denominator_is_a_dash(made):
    import random

    rates = made["make_rates"](random.Random(0), ["a", "b"])
    table = class_table(rates)
    assert table.rows[0][:3] == ["a", "27", "–"] and table.rows[1][2].startswith("95.0")
    assert class_table(None) is None


def test_calibration_says_which_way_the_arm_errs(made):
    told = calibration_table(made["make_calibration"]("ridge@net/b.gap"))
    assert told.lead == ["The selected arm is not sure enough: its temperature is 0.25."]
    assert told.table.rows == [["ridge@net/b.gap", "0.25", "0.500 → 0.100", "0.300 → 0.020"]]


def test_a_screen_is_shown_with_its_audit(made):
    import random

    told = screen_table(made["make_screen"](random.Random(0), "balanced_accuracy"), ACCURACY)
    assert told.lead[0] == "kNN: Kendall τ 0.81, Spearman ρ 0.93; its first tap loses 0.4 points on the best."
    assert told.lead[2] == "LogME: too few taps to correlate; its first tap loses 0.0 points on the best."
    ridge = [float(row[2].split("\u202f")[0]) for row in told.table.rows]
    assert ridge == sorted(ridge, reverse=True) and told.table.rows[0][-1].endswith("(ridge)")


def test_p_values_stand_with_the_differences():
    row = {"arm": "a", "value": -0.01, "ci_low": -0.03, "ci_high": 0.01, "p_holm": 0.4}
    bare = {"arm": "b", "value": -0.02, "ci_low": -0.03, "ci_high": -0.01}
    tests = {"better": 1, "worse": 9, "p": 0.02, "p_holm": 0.0004}
    found = read_paired([{**row, "mcnemar": tests}, bare], None, [], ACCURACY, 5)
    assert [one.tests for one in found.rows] == ["p 0.400 · McNemar < 0.001", ""]
    assert (p_text(1.0), p_text(None)) == ("1", "–")


def test_costs_are_read_as_people_write_them():
    texts = [seconds_text(one) for one in (0.004, 0.35, 12, 118, 600, 9000)]
    assert texts == ["4 ms", "0.35 s", "12 s", "118 s", "10 min", "2.5 h"]


def test_the_frontier_names_what_nothing_cheaper_beats():
    rows, costs = [], []
    for arm, seconds, value in (("a", 1, 0.7), ("b", 10, 0.6), ("c", 100, 0.9), ("d", None, 0.99)):
        rows.append({"arm": arm, "k_shot": "all", "backbone": "net", "val": {"accuracy": {"value": value}}})
        costs.append({"arm": arm, "k_shot": "all", "seconds": seconds, "nbytes": 5e6, "num_parameters": 970})
    view = read_cost(costs, rows, ACCURACY, {})
    assert [row[0] for row in view.table.rows] == ["a", "c"]
    assert view.table.rows[0][2:] == ["1 s", "5 MB", "970"]
    assert len(re.findall(r'class="mark', view.drawing)) == 3  # of d nobody knows the cost
    assert read_cost(costs[:1], rows, ACCURACY, {}) is None


def test_ranks_say_what_they_cannot_tell():
    raw = {"tasks": ["x", "y"], "mean_ranks": {"a": 1.25, "b": 1.75}, "left_out": ["c"], "note": "too few"}
    told = rank_table(raw, "head")
    assert told.table.rows == [["a", "1.25"], ["b", "1.75"]]
    assert told.lead == ["Over x, y.", "Too few.", "Not in every task, and left out: c."]
    assert "p = 0.01" in rank_table({**raw, "friedman_p": 0.01}, "head").lead[1]
    assert rank_table(None, "head") is None


def test_arms_that_adapt_the_source_model_are_one_row_each_with_the_winner_marked():
    def row(name, k_shot, value):
        return {"arm": f"{name}@net", "name": name, "backbone": "net", "k_shot": k_shot, "value": value,
                "ci_low": value - 0.02, "ci_high": value + 0.02}  # fmt: skip

    told = transfer_table(
        {
            "arms": [
                row("lp_ft", 5, 0.9),
                row("scratch", 5, 0.6),
                row("lp_ft", "all", 0.97),
                row("full", "all", 0.96),
            ],
            "winners": [
                {"k_shot": 5, "arm": "lp_ft@net", "name": "lp_ft", "ties": []},
                {"k_shot": "all", "arm": "lp_ft@net", "name": "lp_ft", "ties": ["full@net"]},
            ],
        },
        get_metric("balanced_accuracy"),
    )
    assert told.table.head == ["arm", "backbone", "5 labels a class", "all labels"]
    by_name = {cells[0]: cells[2:] for cells in told.table.rows}
    assert by_name["lp_ft"][0].endswith("★") and by_name["full"][1].endswith("≈")
    assert by_name["scratch"][1] == "–" and "★" not in by_name["scratch"][0]
    assert told.lead == [
        "With 5 labels a class lp_ft is best, ahead of all others.",
        "With all labels lp_ft is best, and cannot be told from full.",
    ]
    assert transfer_table(None, get_metric("accuracy")) is None
