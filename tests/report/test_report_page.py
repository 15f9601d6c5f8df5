"""The page as a whole: self-contained, escaped, complete, deterministic."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from embedpipe.errors import ConfigError, DataError
from embedpipe.params import validate
from embedpipe.report import ReportOptions, render_report

NAN = float("nan")
HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "]]></svg><b>bold</b>",
    "\u202egnp.exe",
    "broken\ud800name",
    "&lt;&amp;",
    "-->",
]


class Page(HTMLParser):
    """Elements, attributes, ids and the text inside elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "wbr", "br"):
            self._open.append(tag)
            self.inside.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.inside[tag][-1] += data
        if not {"script", "style"} & set(self._open):
            self.words.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.elements if tag == name]

    def classed(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def data(self):
        at = next(i for i, attrs in enumerate(self.tags("script")) if attrs.get("id") == "leaderboard-data")
        return json.loads(
            self.inside["script"][at], parse_constant=lambda word: pytest.fail(f"{word} in JSON")
        )


@pytest.fixture
def render(tmp_path):
    def render(comparison, leaderboard, cards, **options) -> Page:
        out = tmp_path / "report" / "index.html"
        render_report(comparison, leaderboard, cards, out, options=ReportOptions(**options))
        html = out.read_bytes().decode("utf-8")
        assert [path.name for path in out.parent.iterdir()] == ["index.html"]
        return Page(html)

    return render


def test_page_asks_the_network_for_nothing(make_sample, tmp_path):
    out = tmp_path / "index.html"
    render_report(*make_sample(), out)
    html = out.read_text()
    page = Page(html)
    for tag, attrs in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image", "use"), tag
        assert "src" not in attrs and "srcset" not in attrs, (tag, attrs)
        for name in ("href", "action", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
    assert not re.search(r"https?://|//cdn|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|\bimport\(", html)
    policy = next(a["content"] for a in page.tags("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


def test_links_lead_to_ids_and_ids_are_unique(make_sample, render):
    page = render(*make_sample())
    ids = Counter(attrs["id"] for _, attrs in page.elements if attrs.get("id"))
    assert [name for name, times in ids.items() if times > 1] == []
    assert {a["href"][1:] for a in page.tags("a")} <= set(ids)


def test_same_input_gives_same_bytes_in_another_process(make_sample, tmp_path):
    render_report(*make_sample(), tmp_path / "here.html")
    script = Path(__file__).with_name("make_sample.py")
    for seed in ("1", "2"):
        out = tmp_path / f"there{seed}.html"
        subprocess.run([sys.executable, script, out], check=True, env={"PYTHONHASHSEED": seed})
        assert out.read_bytes() == (tmp_path / "here.html").read_bytes()


def test_importing_the_report_imports_no_torch():
    code = (
        "import sys, embedpipe.report; print({'torch', 'dask', 'dvc', 'zarr', 'plotly'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_headline_is_said_and_drawn(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    page = render(comparison, leaderboard, cards)
    (said,) = page.inside["h1"]
    assert said.startswith("With 5 labels a class on digit, transferred features (glyphnet) reach")
    assert said.endswith("10.3 [7.1, 13.8] ahead of pixels.")
    assert "Balanced accuracy, validation, 10 draws; 95 % bootstrap over samples and draws." in page.text
    assert "+10.3 transferred − pixels" in page.text.replace("  ", " ")
    assert "+7.1 to +13.8" in page.text
    assert len(page.classed("zero")) == 2  # one a difference
    assert (
        "Task digit · balanced accuracy · 5 labels a class · 10 draws · 271 validation samples" in page.text
    )


def test_headline_with_a_sentence_alone_still_renders(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    comparison["headline"] = {"sentence": "No baseline was asked for."}
    page = render(comparison, leaderboard, cards)
    assert page.inside["h1"] == ["No baseline was asked for."]
    assert page.classed("zero") == []


def test_regression_has_its_metric_and_no_confusion_matrix(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    comparison["tasks"] = {"slant": comparison["tasks"]["slant"]}
    rows = [row for row in leaderboard if row["task"] == "slant"]
    comparison["headline"] = {"sentence": "slant", "task": "slant", "metric": "r2"}
    page = render(comparison, rows, cards)
    assert "Confusion" not in page.text
    assert "selected by R²" in page.text
    assert "3 missing" in page.text
    shown = next(row["val"]["r2"]["value"] for row in rows if row["selected"])
    assert f"{shown:.3f}" in page.text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_stay_text(make_sample, render, hostile):
    comparison, leaderboard, cards = make_sample()
    plain = render(comparison, leaderboard, cards)
    text = json.dumps([comparison, leaderboard, cards])
    for name in (
        "digit",
        "glyphnet/blocks.2.grid2",
        "glyphnet",
        "logistic",
        "blocks.2",
        "grid:2",
        "3 samples",
    ):
        text = text.replace(name, json.dumps(name + hostile)[1:-1])
    comparison, leaderboard, cards = json.loads(text)
    task = next(iter(comparison["tasks"].values()))
    task["classes"] = task["confusion"]["classes"] = [f"{hostile}{i}" for i in range(10)]
    leaderboard[0]["note"] = hostile
    leaderboard[0]["params"] = {hostile: hostile}
    page = render(comparison, leaderboard, cards, title="t" + hostile.replace("\ud800", ""))
    kinds = [Counter(tag for tag, _ in each.elements) for each in (plain, page)]
    for tag in ("script", "style", "img", "svg", "b", "section", "table"):
        assert kinds[0][tag] == kinds[1][tag], tag
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert page.data["rows"][0][3] == leaderboard[0]["arm"]
    readable = "".join(hostile.replace("\ud800", "?").split())
    assert readable in "".join(page.text.split())


def test_missing_and_nan_numbers_are_dashes(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    leaderboard[0]["val"] = {"balanced_accuracy": {"value": NAN, "ci_low": NAN, "ci_high": NAN}}
    leaderboard[1]["val"] = {}
    leaderboard[2]["val"]["balanced_accuracy"] = {"value": 0.5, "ci_low": None, "ci_high": None}
    leaderboard[3]["draws"] = None
    digit = comparison["tasks"]["digit"]
    digit["learning_curves"][0]["value"] = NAN
    digit["layer_curves"][0] |= {"value": float("inf"), "depth": None}
    digit["paired"][0] |= {"ci_low": NAN, "ci_high": 0.1}
    digit["num"] = {}
    comparison["headline"]["arms"][0]["value"] = None
    cards["pixels"] = {}
    page = render(comparison, leaderboard, cards)
    assert not re.search(r"\b(nan|inf|None)\b", page.text, re.IGNORECASE)
    assert page.data["rows"][0][8][0] is None
    assert page.data["rows"][2][8][0] == [0.5]
    assert "– train" in page.text
    assert not [
        a for _, attrs in page.elements for a in attrs.values() if a and re.search(r"\bnan\b|\binf\b", a)
    ]


def test_empty_comparison_still_renders(render):
    page = render({"headline": {"sentence": "Nothing yet."}, "tasks": {}}, [], {})
    assert "No arm has been compared yet." in page.text


def test_task_with_nothing_but_its_name_still_renders(render):
    page = render({"headline": {"sentence": "Little."}, "tasks": {"t": {}}}, [{"task": "t", "arm": "a"}], {})
    assert "selected by score" in page.text


def test_sealed_test_is_said_to_be_sealed(make_sample, render):
    page = render(*make_sample())
    assert "The test set is sealed and was read 0 times" in page.text
    assert all(row[9] is None for row in page.data["rows"])


def test_opened_test_shows_its_figures_and_how_often_it_was_read(make_sample, render):
    page = render(*make_sample(opened=True))
    assert "The test set was read 1 time;" in page.text
    opened = [row for row in page.data["rows"] if row[9] is not None]
    assert opened and all(row[5] & 1 for row in opened)


def test_a_test_that_every_comparison_reads_is_said_to_be_open(make_sample, render):
    comparison, leaderboard, cards = make_sample(opened=True)
    page = render({**comparison, "test": "open", "test_openings": 0}, leaderboard, cards)
    assert "every comparison reads it, so its figures are no better kept" in page.text
    assert "0 times" not in page.text


def test_selected_and_baseline_arms_are_marked(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    page = render(comparison, leaderboard, cards)
    marked = {(row[3], bool(row[5] & 2)) for row in page.data["rows"]}
    assert ("majority", True) in marked and ("shuffled_labels", True) in marked
    assert "selected" in page.classed("selected")[0]["class"]
    assert comparison["tasks"]["digit"]["selected"] in page.text.replace(" ", "")


def test_large_leaderboard_is_small_and_quick(make_sample, tmp_path):
    sample = make_sample(5000)
    out = tmp_path / "index.html"
    start = time.perf_counter()
    render_report(*sample, out)
    assert time.perf_counter() - start < 5
    assert out.stat().st_size < 2_000_000
    page = Page(out.read_text())
    assert len(page.data["rows"]) == 5000
    assert len(page.classed("col-task")) <= 51  # rows in the page itself, and the heading


def test_rows_are_packed_in_order_with_their_scores(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    data = render(comparison, leaderboard, cards).data
    names = [metric["name"] for metric in data["metrics"]]
    for row, packed in zip(leaderboard, data["rows"], strict=True):
        assert data["tasks"][packed[0]]["name"] == row["task"]
        assert (packed[1], packed[3]) == (str(row["k_shot"]), row["arm"])
        for name, item in row["val"].items():
            wanted = [item["value"], item["ci_low"], item["ci_high"]]
            assert packed[8][names.index(name)] == pytest.approx(wanted, rel=1e-4)


def test_cards_show_what_was_computed_by_what(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    cards["glyphnet"]["failed"] = [{"sample_id": "a.png", "reason": "truncated"}]
    page = render(comparison, leaderboard, cards)
    assert cards["glyphnet"]["spec"]["weights_digest"] in page.text
    assert "convert L → resize 8, interpolation bilinear" in page.text
    assert "1 sample could not be embedded" in page.text and "a.png: truncated" in page.text


def test_ties_are_those_that_selection_names(make_sample, render):
    comparison, leaderboard, cards = make_sample()
    digit = comparison["tasks"]["digit"]
    assert "All 52 other arms can be told from it" in render(comparison, leaderboard, cards).text
    digit["ties"] = [digit["paired"][0]["arm"], digit["paired"][1]["arm"]]
    assert "2 of 52 other arms cannot be told apart" in render(comparison, leaderboard, cards).text


def test_input_is_left_as_it_was(make_sample, render):
    sample = make_sample()
    before = copy.deepcopy(sample)
    render(*sample)
    assert sample == before


@pytest.mark.parametrize("sentence", ["a `b", "`", "x (y", "(all)", "", "a\nb (c)", "<i>`<b>`</i> (<u>)."])
def test_any_sentence_is_said_whole(render, sentence):
    page = render({"headline": {"sentence": sentence}, "tasks": {}}, [], {})
    assert page.tags("i") == page.tags("b") == page.tags("u") == []
    words = re.findall(r"\w+", sentence)
    said = page.text.split("What was learnt")[1]
    assert re.findall(r"\w+", said.lower())[: len(words)] == words


def test_missing_tasks_are_named(tmp_path):
    with pytest.raises(DataError, match=r"comparison\.json: expected a mapping 'tasks', found none; run"):
        render_report({"headline": {"sentence": "x"}}, [], {}, tmp_path / "x.html")


def test_missing_sentence_is_named(tmp_path):
    with pytest.raises(DataError, match=r"expected 'headline' with a 'sentence'"):
        render_report({"tasks": {}}, [], {}, tmp_path / "x.html")


def test_unknown_option_suggests_the_known_one():
    with pytest.raises(ConfigError, match=r"report\.row: unknown key \(did you mean 'rows'\?\)"):
        validate(ReportOptions, {"row": 3}, "params.yaml: report")


def test_options_are_heeded(make_sample, render):
    page = render(*make_sample(), title="Handwriting", rows=9, paired=3, confusion_classes=4)
    assert page.inside["title"][0] == "Handwriting"
    assert page.data["show"] == 9
    assert "The 4 of 10 classes with most errors." in page.text
    assert "47 more were compared" in page.text  # of 52: three nearest and two baselines shown
