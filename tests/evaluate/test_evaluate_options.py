"""Options of selection and comparison, read as a user would meet them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from embedpipe.errors import ConfigError
from embedpipe.evaluate.options import (
    Baselines,
    CompareOptions,
    SelectOptions,
    check_baselines,
    check_k_shot_heads,
)
from embedpipe.params import validate


def test_a_k_shot_below_one_is_refused():
    with pytest.raises(ConfigError, match="each is `all` or 1 or more"):
        validate(CompareOptions, {"k_shot": [0, "all"]}, "params.yaml: compare")


def test_a_k_shot_listed_twice_is_refused():
    with pytest.raises(ConfigError, match="listed twice"):
        validate(CompareOptions, {"k_shot": [5, 5]}, "params.yaml: compare")


def test_numeric_k_shots_are_ascending_and_leave_out_all():
    assert CompareOptions(k_shot=["all", 20, 5]).numeric_k_shot == [5, 20]


def test_an_unknown_metric_is_refused():
    with pytest.raises(ConfigError, match=r"select\.by"):
        validate(SelectOptions, {"by": "acuracy"}, "params.yaml: select")


def test_an_unknown_baseline_names_the_nearest():
    with pytest.raises(ValidationError, match=r"unknown baseline 'majorty' \(did you mean 'majority'\?\)"):
        TypeAdapter(Baselines).validate_python(["majorty"])


def test_a_baseline_that_no_backbone_provides_says_what_to_add():
    with pytest.raises(ConfigError) as error:
        check_baselines(["majority", "random_weights", "pixels"], {"r50": "transferred"})
    lines = str(error.value).splitlines()
    assert "'random_weights' needs a backbone of that role" in lines[0]
    assert "weights: random:0" in lines[0]
    assert "pixels: {model: pixels}" in lines[1]


def test_baselines_that_backbones_provide_pass():
    check_baselines(["random_weights", "pixels"], {"a": "random", "b": "pixels"})


def test_an_unknown_head_for_k_shot_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"compare\.heads: no head is named 'ridg' \(did you mean 'ridge'\?\)"
    ):
        check_k_shot_heads(["ridg"], ["logistic", "ridge"])


def test_the_first_head_trains_at_k_shot_by_default():
    assert check_k_shot_heads(None, ["logistic", "ridge"]) == ["logistic"]


def test_calibration_error_cannot_select():
    with pytest.raises(ValueError, match="by"):
        SelectOptions(by="ece")
    assert SelectOptions(by="auroc").by == "auroc"
