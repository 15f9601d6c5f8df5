"""Texts from a table through a small encoder: what is stored is what the model says of each text alone."""

import csv
import json
import shutil

import numpy as np
import projects
import pytest
import tiny_models

from embedpipe.evaluate.predictions import Predictions
from embedpipe.features.features import Features
from embedpipe.manifest.table import Manifest

WORDS = tiny_models.WORDS


def texts(num, seed=0):
    """Distinct texts of 1 to 60 words, most of them short; spam says free or prize."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(num):
        length = int(min(60, 1 + generator.exponential(14)))
        words = generator.choice(WORDS[:6] + WORDS[12:], length).tolist()
        spam = i % 3 == 0
        found.append(
            (" ".join([*words, *(["free", "prize"] if spam else [])]) + f" {'a' * (i % 7)}{i}", spam)
        )
    return found


def write_table(root, rows):
    lines = ["Label\tSMS", *(f"{'spam' if spam else 'ham'}\t{text}" for text, spam in rows)]
    (root / "sms.tsv").write_text("\n".join(lines) + "\n")


def params(**rows):
    return {
        **projects.small_params(),
        "datasets": {"sms": {"source": {"kind": "table", "path": "sms.tsv", "text": "SMS"}, **rows}},
        "tasks": {"spam": {"on": "sms", "labels": "Label"}},
        "backbones": {
            "bert": {"model": "transformers:bert", "taps": {"blocks": ["mean_tokens"], "last": ["length"]}}
        },
        "extract": {"batch": 8, "precision": "float32", "device": "cpu", "dtype": "float32"},
        "baselines": ["majority"],
    }


@pytest.fixture(scope="session")
def text_template(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    tiny_models.make_bert(root / "bert")
    write_table(root, [*texts(60), ('the cat\'s "free" hat', False), *texts(3)])
    (root / "test_log.jsonl").touch()
    projects.write_params(root, params())
    return root


@pytest.fixture
def project(text_template, tmp_path):
    return shutil.copytree(text_template, tmp_path / "project")


def run(cli, root, *arguments, code=0):
    found, out, err = cli(root, *arguments)
    assert found == code, err
    return out, err


def features(root, tap="hidden.3.mean_tokens.float32", parts="mean"):
    manifest = Manifest.read(root / "data/manifests/sms/samples.parquet")
    found = Features.of(manifest, [(root / "data/features/bert", tap)], parts=parts)
    return found.sample_ids, found.numpy()


def alone(root, tap_texts):
    """Mean tokens of the last layer as transformers gives them for each text by itself."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(root / "bert")
    model = transformers.AutoModel.from_pretrained(root / "bert").eval()
    with torch.no_grad():
        rows = [
            model(**tokenizer([one], truncation=True, return_tensors="pt", return_token_type_ids=False))[0][
                0
            ].mean(0)
            for one in tap_texts
        ]
    return np.stack([row.numpy() for row in rows])


def by_text(root):
    """Text of each sample in the order of the manifest."""
    manifest = Manifest.read(root / "data/manifests/sms/samples.parquet")
    lines = (root / "sms.tsv").read_text().splitlines()[1:]
    return [lines[int(locator)].split("\t")[1] for locator in manifest.locators]


def test_each_text_is_embedded_as_it_would_be_alone(cli, project):
    run(cli, project, "ingest")
    out, _ = run(cli, project, "extract", "--json")
    (summary,) = json.loads(out)
    assert summary["num_embedded"] == 61 and summary["num_samples"] == 61  # of 64: three are repeats
    ids, found = features(project)
    assert len(ids) == 64
    np.testing.assert_allclose(found, alone(project, by_text(project)), atol=2e-6)
    lengths = features(project, "hidden.3.length.float32")[1]
    assert lengths.min() >= 3 and lengths.max() == 48
    card = json.loads((project / "data/features/bert/card.json").read_text())
    assert card["origin"] == {"source": "bert"} and card["modality"] == "text"


def test_a_run_that_was_stopped_and_tasks_give_the_same_bits(cli, project, tmp_path):
    run(cli, project, "ingest")
    stopped, tasks = (shutil.copytree(project, tmp_path / name) for name in ("stopped", "tasks"))
    run(cli, project, "extract")
    expected = features(project)
    run(cli, stopped, "extract", "--limit", "21", code=75)
    _, err = run(cli, stopped, "extract")
    assert "40 embedded, 21 already there" in err
    for task in ("1/2", "2/2"):
        run(cli, tasks, "extract", "--task", task)
    for root in (stopped, tasks):
        ids, found = features(root)
        assert ids.tolist() == expected[0].tolist() and np.array_equal(found, expected[1])


def test_a_kill_keeps_batches_in_whatever_order_they_came(cli, project, monkeypatch):
    from embedpipe.extract import run as running

    run(cli, project, "ingest")
    params_now = params()
    params_now["extract"]["journal_s"] = 0.0
    projects.write_params(project, params_now)
    real, seen = running.Failures.add, []

    def dies(self, failed, plan, *, computed=True):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return real(self, failed, plan, computed=computed)

    monkeypatch.setattr(running.Failures, "add", dies)
    assert cli(project, "extract")[0] == 130
    monkeypatch.setattr(running.Failures, "add", real)
    write_table(project, [*texts(60), *texts(9, seed=5)])  # another plan: rows are taken over by key
    run(cli, project, "ingest")
    out, _ = run(cli, project, "extract", "--json")
    (summary,) = json.loads(out)
    assert 0 < summary["num_embedded"] < 69
    np.testing.assert_allclose(features(project)[1], alone(project, by_text(project)), atol=2e-6)


def test_long_texts_are_cut_and_counted_or_laid_out_as_windows(cli, project):
    run(cli, project, "ingest")
    _, err = run(cli, project, "extract")
    inputs_cut = sum(length == 48 for length in features(project, "hidden.3.length.float32")[1][:, 0])
    assert f"bert: {inputs_cut} texts embedded now were longer than 48 tokens and were cut there" in " ".join(
        err.split()
    )
    projects.write_params(project, params(rows={"tokens": 16, "overlap": 4}))
    run(cli, project, "ingest")
    out, err = run(cli, project, "extract", "--json")
    assert "preprocessing" in err and "were cut" not in err  # another space, so another group
    ids, rows = features(project, "hidden.3.length.float32", parts="all")
    assert len(ids) > 64 and rows.max() == 16
    mean = features(project)[1]
    every_ids, every = features(project, parts="all")
    for i, name in enumerate(sorted(set(ids.tolist()))):
        np.testing.assert_allclose(mean[i], every[every_ids == name].mean(axis=0), atol=1e-6)
    out, _ = run(cli, project, "extract", "--json")
    assert json.loads(out)[0]["num_embedded"] == 0  # windows are counted once, and found again
    (counted,) = project.rglob("*.windows.npz")
    counted.write_bytes(counted.read_bytes()[:200])
    out, _ = run(cli, project, "extract", "--json")
    assert json.loads(out)[0]["num_embedded"] == 0  # and again where what was counted is damaged


def test_predict_takes_the_mean_of_windows_as_training_did(cli, project):
    windowed = params(rows={"tokens": 16, "overlap": 4})
    windowed["extract"]["dtype"] = "float16"  # what is computed is rounded before the mean is taken
    windowed |= {"compare": {"k_shot": ["all"]}, "heads": {"logistic": {"C": 1.0}}}
    projects.write_params(project, windowed)
    write_table(project, texts(36))
    for step in ("ingest", "extract", "train", "select"):
        run(cli, project, step)
    arm = "logistic@bert/hidden.3.mean_tokens"
    stored = [text for text, _ in texts(36)]
    # a space behind a text leaves its tokens as they are, and makes it one that no store has
    asked = [*stored, *(f"{text} " for text in stored), " "]
    lines = ["text", *('"{}"'.format(text.replace('"', '""')) for text in asked)]
    (project / "new.csv").write_text("\n".join(lines) + "\n")
    out, _ = run(cli, project, "predict", "new.csv", "--arm", arm, "--json", "--out", "said.csv")
    assert json.loads(out)["known"] == {"bert": 36} and json.loads(out)["computed"] == {"bert": 36}
    rows = list(csv.DictReader((project / "said.csv").read_text().splitlines()))
    said = [row["p(spam=ham)"] for row in rows]
    assert rows[-1]["error"] == "empty text" and said[-1] == ""
    np.testing.assert_allclose(np.array(said[:36], float), np.array(said[36:72], float), atol=1e-6)

    scores = Predictions.read(project / "data/predictions/spam.parquet").scores(arm)
    manifest = Manifest.read(project / "data/manifests/sms/samples.parquet")
    row_of = dict(zip(manifest.sample_ids.tolist(), map(int, manifest.locators), strict=True))
    by_row = {
        row_of[one]: float(p[0]) for one, p in zip(scores.sample_ids.tolist(), scores.scores[0], strict=True)
    }
    assert len(by_row) > 5 and max(len(stored[row].split()) for row in by_row) > 16
    np.testing.assert_allclose([float(said[row]) for row in by_row], list(by_row.values()), atol=1e-6)


def test_windows_longer_than_the_model_takes_are_refused(cli, project):
    projects.write_params(project, params(rows={"tokens": 64, "overlap": 4}))
    run(cli, project, "ingest")
    _, err = run(cli, project, "extract", code=2)
    assert "datasets.sms.rows.tokens: expected at most 48, as the model takes, found 64" in err


def test_text_backbones_on_images_and_the_reverse_are_one_sentence(cli, project):
    wrong = params()
    wrong["backbones"]["net"] = {"model": "glyphnet", "weights": "random:0", "taps": {"last": ["gap"]}}
    projects.write_params(project, wrong)
    _, err = run(cli, project, "info", code=2)
    assert "backbones.net: expected a data set of images to embed, found sms (text)" in err
    images = {**params(), "datasets": {"shapes": {"source": {"kind": "folder", "path": "images"}}}}
    images["tasks"] = {"shape": {"on": "shapes", "labels": "label"}}
    projects.make_images(project / "images", 2)
    projects.write_params(project, images)
    run(cli, project, "ingest")
    _, err = run(cli, project, "extract", code=2)
    assert "backbones.bert: expected a data set of texts to embed, found shapes (image)" in err


def test_prefetch_fetches_what_is_on_a_hub_and_nothing_else(cli, project, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **rest: asked.append(name) or str(project / "bert")
    )
    both = params()
    both["backbones"]["e5"] = {
        **both["backbones"]["bert"],
        "model": "transformers:intfloat/e5",
        "revision": "a" * 40,
    }
    projects.write_params(project, both)
    out, _ = run(cli, project, "prefetch", "--json")
    assert [one["from"] for one in json.loads(out)] == ["nowhere", "hub"] and asked == ["intfloat/e5"]


def test_a_name_without_a_commit_is_found_before_anything_runs(cli, project):
    wrong = params()
    wrong["backbones"]["e5"] = {**wrong["backbones"]["bert"], "model": "transformers:intfloat/e5"}
    wrong["backbones"]["gone"] = {**wrong["backbones"]["bert"], "model": "transformers:./gone"}
    projects.write_params(project, wrong)
    out, err = run(cli, project, "info", code=2)
    said = " ".join((out + err).split())
    assert (
        "intfloat/e5 on the hub needs revision" in said
        and "expected a folder with a model, found none at" in said
    )


@pytest.mark.slow
def test_workers_of_dask_give_the_same_bits(cli, project, tmp_path):
    run(cli, project, "ingest")
    other = shutil.copytree(project, tmp_path / "dask")
    run(cli, project, "extract")
    spread = params(rows=None)
    spread["extract"] |= {"executor": "dask", "workers": 2}
    projects.write_params(other, spread)
    _, err = run(cli, other, "extract")
    assert np.array_equal(features(other)[1], features(project)[1]) and "were cut" in err


def test_a_text_project_goes_all_the_way(cli, project):
    for step in ("ingest", "extract", "train", "select", "compare", "report"):
        run(cli, project, step)
    out, _ = run(cli, project, "info", "--json")
    assert "hidden.3" in out
