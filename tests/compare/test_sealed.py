"""The test: sealed until it is opened on purpose, and every opening is written down."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from embedpipe.compare.comparison import compare
from embedpipe.compare.sealed import open_test
from embedpipe.compare.table import render
from embedpipe.compare.test_log import append_log, read_log, with_test_figures
from embedpipe.errors import ConfigError, DataError
from embedpipe.manifest.targets import Targets
from embedpipe.select.selection import select

BASELINES = ["majority", "shuffled_labels", "random_weights", "pixels"]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def digests(results):
    return {"colour": Targets.read(results.sealed).digest}


@pytest.fixture
def opened(results, tmp_path):
    """Files, selection and a function that opens the test."""
    files = {"colour": results.write()}
    selection = select(files, baselines=BASELINES)
    log = tmp_path / "test_log.jsonl"

    def open_it(**more):
        more = {"now": NOON, **more}
        return open_test(files, {"colour": results.sealed}, selection, log=log, **more)

    return files, selection, log, open_it


def test_the_selected_arms_are_judged_on_test_targets(results, opened):
    _, _, log, open_it = opened
    records = open_it()
    assert [(one["arm"], one["k_shot"]) for one in records] == [
        ("ridge@net/b.gap", "all"),
        ("selected@net", 5),
    ]
    test = results.splits == "test"
    expected = (results.scores_of(0.9).argmax(axis=1) == results.codes)[test].mean()
    assert records[0]["test"]["accuracy"]["value"] == pytest.approx(expected)
    assert records[0]["num_samples"] == test.sum()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines == records
    assert lines[0]["time"] == "2026-11-23T12:00:00.000+00:00"


def test_every_opening_is_appended(opened):
    _, _, log, open_it = opened
    open_it()
    first = log.read_text()
    open_it(now=datetime(2026, 11, 24, tzinfo=UTC), arms=["majority"])
    assert log.read_text().startswith(first)
    assert [one["arm"] for one in read_log(log)] == ["ridge@net/b.gap", "selected@net", "majority"]


def test_an_unknown_arm_names_the_nearest_and_opens_nothing(opened):
    _, _, log, open_it = opened
    with pytest.raises(ConfigError, match=r"no arm is named 'majorty' \(did you mean 'majority'\?\)"):
        open_it(arms=["majorty"])
    assert not log.exists()


def test_the_leaderboard_shows_what_the_log_has_for_these_predictions(results, opened):
    files, selection, log, open_it = opened
    records = open_it()
    found = compare(files, selection, baselines=BASELINES, test_log=log, targets_digests=digests(results))
    tested = {(row["arm"], row["k_shot"]): row["test"] for row in found.leaderboard if row["test"]}
    assert tested == {(one["arm"], one["k_shot"]): one["test"] for one in records}
    assert found.comparison["test_openings"] == 1


def test_a_figure_of_other_predictions_is_not_shown(results, opened):
    _, _, log, open_it = opened
    open_it()
    results.arms[0].scores[:] = results.scores_of(0.92)
    files = {"colour": results.write()}
    selection = select(files, baselines=BASELINES)
    found = compare(files, selection, baselines=BASELINES, test_log=log, targets_digests=digests(results))
    assert {row["arm"] for row in found.leaderboard if row["test"]} == {"selected@net"}
    assert found.comparison["test_openings"] == 1  # opened it was, all the same


def test_a_figure_of_other_test_labels_is_not_shown(results, opened):
    files, selection, log, open_it = opened
    open_it()
    test = np.flatnonzero(results.splits == "test")[0]
    results.codes[test] = (results.codes[test] + 1) % 3  # as when a wrong label is put right
    results.write()
    found = compare(files, selection, test_log=log, targets_digests=digests(results))
    assert all(row["test"] is None for row in found.leaderboard)
    assert found.comparison["test_openings"] == 1
    assert "opened 1 time, but not for these predictions and targets" in render(
        found.leaderboard, found.comparison
    )


def test_a_record_of_unknown_targets_is_counted_and_not_shown(results, opened):
    files, selection, log, open_it = opened
    records = [{**one, "time": "earlier"} for one in open_it()]
    log.write_text("".join(json.dumps(one) + "\n" for one in records).replace('"targets_digest"', '"was"'))
    found = compare(files, selection, test_log=log, targets_digests=digests(results))
    assert all(row["test"] is None for row in found.leaderboard)
    assert found.comparison["test_openings"] == 1


def test_figures_of_an_opening_after_the_comparison_can_be_filled_in(results, opened):
    files, selection, log, open_it = opened
    board = compare(files, selection, targets_digests=digests(results)).leaderboard
    records = open_it()
    filled = with_test_figures(board, read_log(log), digests(results))
    assert {row["arm"] for row in filled if row["test"]} == {one["arm"] for one in records}


def test_openings_are_counted_by_their_time(opened):
    files, selection, log, open_it = opened
    open_it()
    open_it(now=datetime(2026, 11, 24, tzinfo=UTC))
    assert compare(files, selection, test_log=log).comparison["test_openings"] == 2


def test_a_sealed_comparison_does_not_read_test_targets(results, opened):
    files, selection, _, _ = opened
    expected = compare(files, selection)
    results.sealed.write_bytes(b"poison")
    assert compare(files, selection) == expected
    assert all(row["test"] is None for row in expected.leaderboard)


def test_an_open_comparison_fills_every_row_and_says_so(results, opened):
    files, selection, _, _ = opened
    found = compare(files, selection, sealed={"colour": results.sealed})
    assert all(row["test"] is not None for row in found.leaderboard)
    assert any("the test is open" in note for note in found.comparison["tasks"]["colour"]["notes"])
    said = render(found.leaderboard, found.comparison).splitlines()[-1]
    assert said == "The test is open (`compare.test: open`): every comparison reads it."


def test_a_stale_selection_keeps_the_test_sealed(results, opened):
    _, _, log, open_it = opened
    results.arms[0].scores[:] = results.scores_of(0.2)
    results.write()
    with pytest.raises(DataError, match="so the test stays sealed"):
        open_it()
    assert not log.exists()


def test_a_line_that_was_cut_off_is_named_and_swallows_no_other(tmp_path):
    log = tmp_path / "test_log.jsonl"
    record = {"time": "t", "task": "a", "arm": "b", "k_shot": "all", "predictions_digest": "d"}
    record["targets_digest"] = "e"
    log.write_text('{"time": "t", "ta')
    append_log(log, [{**record, "num_samples": 1, "test": {}}])
    assert json.loads(log.read_text().splitlines()[1])["arm"] == "b"
    with pytest.raises(DataError, match="line 1: expected one JSON object"):
        read_log(log)
