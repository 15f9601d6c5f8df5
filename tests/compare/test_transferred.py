"""Arms that adapt the source model, beside the head that they start from: in every table but the selection's."""

import dataclasses

import numpy as np
import pytest

from embedpipe.compare.comparison import compare
from embedpipe.compare.sealed import open_test
from embedpipe.errors import ConfigError, DataError
from embedpipe.evaluate.evidence import TransferFiles, open_evidence
from embedpipe.evaluate.predictions import ArmScores
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.select.selection import select
from embedpipe.transfer.files import TransferPaths, write_results

CLASSES = ("x", "y", "z")


@pytest.fixture
def with_arms(results):
    """Files of a task with arms; call with {(name, k): shares right in each draw}."""

    def write(arms, classes=CLASSES):
        files = results.write()
        folder = results.root / "transfer"
        paths = TransferPaths(
            *(folder / name for name in ("models", "p.parquet", "s.json", "h.csv", "c.json", "memo", "runs"))
        )
        rows, scores = [], []
        for (name, k), shares in arms.items():
            role = "random" if name == "scratch" else "transferred"
            rows.append(
                {
                    "arm": f"{name}@net", "head": name, "family": name, "recipe": name, "backbone": "net",
                    "role": role, "tap": "b.gap", "node": "b", "reduction": "gap", "depth": 1.0, "params": {},
                    "note": None, "k_shot": k or "all", "draws": len(shares),
                }
            )  # fmt: skip
            found = [results.scores_of(share, draw) for draw, share in enumerate(shares)]
            scores.append(ArmScores(f"{name}@net", k, results.ids, results.splits, np.stack(found)))
        write_results(
            paths, results.task, TargetSpec("classes", classes), rows=rows, arms=scores, notes=["said"]
        )
        return dataclasses.replace(files, transfer=TransferFiles(paths.scores, paths.predictions, paths.cost))

    return write


ARMS = {("lp_ft", 0): [0.95], ("scratch", 0): [0.5], ("lp_ft", 5): [0.5, 0.5], ("scratch", 5): [0.83, 0.8]}


def compared(files):
    plain = {"colour": dataclasses.replace(files, transfer=None)}
    return compare({"colour": files}, select(plain), baselines=["majority", "random_weights"])


def test_who_wins_where_stands_beside_the_selected_head(with_arms):
    told = compared(with_arms(ARMS)).comparison["tasks"]["colour"]["transfer"]
    assert {(row["name"], row["k_shot"]) for row in told["arms"]} == {
        (name, k) for name in ("lp_ft", "scratch", "selected head") for k in (5, "all")
    }
    few, full = told["winners"]
    assert (full["k_shot"], full["name"], full["ties"]) == ("all", "lp_ft", [])
    assert (few["k_shot"], few["name"], few["ties"]) == (5, "scratch", ["selected@net"])
    best = next(row for row in told["arms"] if row["arm"] == "lp_ft@net" and row["k_shot"] == "all")
    assert best["difference"] is None and best["ci_low"] < best["value"] < best["ci_high"]
    behind = next(row for row in told["arms"] if row["arm"] == "scratch@net" and row["k_shot"] == "all")
    assert behind["difference"]["ci_high"] < 0


def test_an_arm_of_fewer_draws_is_paired_with_the_best_on_those_draws_alone(with_arms):
    files = with_arms({("lp_ft", 5): [0.4], ("scratch", 5): [0.9, 0.99]})
    told = compared(files).comparison["tasks"]["colour"]["transfer"]
    (behind,) = (row for row in told["arms"] if row["arm"] == "lp_ft@net")
    evidence = open_evidence("colour", files, seed=0)
    first = [
        evidence.predictions.scores(arm, 5).at(evidence.sample_ids)[:1]
        for arm in ("lp_ft@net", "scratch@net")
    ]
    mine, best = (evidence.judge.judge(scores) for scores in first)
    assert behind["difference"] == mine.minus(best, evidence.metric).to_dict()
    assert behind["difference"]["value"] > behind["value"] - evidence.value("scratch@net", 5)  # of both draws


def test_the_leaderboard_lists_arms_and_heads_tables_do_not(with_arms):
    files = with_arms(ARMS)
    found, plain = compared(files), compared(dataclasses.replace(files, transfer=None))
    listed = {row["arm"] for row in found.leaderboard if row["recipe"] is not None}
    assert listed == {"lp_ft@net", "scratch@net"}
    (scratch,) = (row for row in found.leaderboard if row["arm"] == "scratch@net" and row["k_shot"] == "all")
    assert scratch["baseline"] and not scratch["selected"]
    about, before = (one.comparison["tasks"]["colour"] for one in (found, plain))
    for name in ("layer_curves", "learning_curves", "screen", "selected", "ties", "optimism"):
        assert about[name] == before[name], name
    assert found.comparison["ranks"] == plain.comparison["ranks"]
    assert found.comparison["headline"] == plain.comparison["headline"]
    assert "lp_ft@net" in {row["arm"] for row in about["paired"]} and "said" in about["notes"]
    assert found.metrics["colour"]["lp_ft@net"]["all"]["val"]["accuracy"] > 0.9
    assert before["transfer"] is None


def test_the_test_is_opened_for_an_arm_that_is_named(with_arms, results, tmp_path):
    files = with_arms(ARMS)
    chosen = select({"colour": dataclasses.replace(files, transfer=None)})
    sealed = {"colour": results.sealed}
    records = open_test({"colour": files}, sealed, chosen, log=tmp_path / "log", arms=["lp_ft@net"])
    assert {(one["arm"], one["k_shot"]) for one in records} == {("lp_ft@net", "all"), ("lp_ft@net", 5)}
    with pytest.raises(ConfigError, match=r"no arm is named 'lp_ft@nett' \(did you mean 'lp_ft@net'\?\)"):
        open_test({"colour": files}, sealed, chosen, log=tmp_path / "log", arms=["lp_ft@nett"])


def test_arms_of_other_targets_are_refused(with_arms):
    with pytest.raises(DataError, match="targets have changed; run `embedpipe transfer colour`"):
        open_evidence("colour", with_arms({}, classes=("x", "y")), seed=0)


def test_arms_that_were_never_run_are_none(with_arms, tmp_path):
    files = with_arms(ARMS)
    nowhere = TransferFiles(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    found = compared(dataclasses.replace(files, transfer=nowhere))
    assert found.comparison["tasks"]["colour"]["transfer"] is None
