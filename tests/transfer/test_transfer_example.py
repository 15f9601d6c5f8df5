"""The page of the example shows the figures that lie beside it, and says of them what they say."""

import json
import re
import runpy
from pathlib import Path

import pytest

from embedpipe.config import load_params

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "transfer"


@pytest.fixture
def told():
    return json.loads((EXAMPLE / "result.json").read_text())["digit"]


def test_its_params_are_valid_and_ask_for_every_arm_at_every_number_of_labels(told):
    params = load_params(EXAMPLE / "params.yaml")
    asked = {(name, k) for name, one in params.transfer_options().items() for k in one.k_shot}
    assert asked == {(row["name"], row["k_shot"]) for row in told["arms"] if row["recipe"] != "head"}
    assert len(asked) == 20


def test_its_table_is_made_of_its_result(told):
    table = runpy.run_path(str(EXAMPLE / "table.py"))["table"](told)
    assert f"<!-- table -->\n{table}<!-- end -->" in (EXAMPLE / "README.md").read_text()


def test_its_words_are_its_figures(told):
    words = (EXAMPLE / "README.md").read_text().partition("<!-- end -->")[2]
    of = {(row["name"], row["k_shot"]): row for row in told["arms"]}
    for name in ("frozen", "scratch"):
        behind = of[name, 5]["difference"]
        low, high = sorted(-100 * behind[one] for one in ("ci_low", "ci_high"))
        assert re.search(
            rf"{-100 * behind['value']:.1f}(?: points)? \[{low:.1f}, {high:.1f}\] ahead of", words
        ), name
    winners = {one["k_shot"]: one for one in told["winners"]}
    assert winners[5]["name"] == "lp_ft" and not winners[5]["ties"]
    assert {"frozen@glyphnet", "full@glyphnet"} <= set(winners[10]["ties"])
    assert all(winners[k]["ties"] == ["scratch@glyphnet", "lp_ft@glyphnet"] for k in (50, "all"))
    for k in (5, 10, 50, "all"):
        assert of["frozen", k]["value"] == of["selected head", k]["value"]
