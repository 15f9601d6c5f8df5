"""Finished fits are kept: a changed head refits that head, a killed run resumes, bytes stay the same."""

import shutil
import sys
from pathlib import Path

import pytest

from embedpipe.heads import registry
from embedpipe.train import keys
from embedpipe.train.memo import Memo, code_digest
from embedpipe.transfer import keys as transfer_keys

sys.path.insert(0, str(Path(__file__).parent.parent))
from closure import ROOT, closure, file_of, imports_of


def test_a_second_run_fits_nothing_and_writes_the_same_bytes(bench):
    first = bench.train()
    assert (first.num_fitted, first.num_recalled) == (13, 0)  # 8 full, 4 few, 1 shuffled
    expected = bench.outputs()
    bench.fits.clear()
    again = bench.train()
    assert (again.num_fitted, again.num_recalled) == (0, 13)
    assert not bench.fits
    assert bench.outputs() == expected


def test_bytes_do_not_depend_on_the_memo(bench):
    bench.train()
    expected = bench.outputs()
    shutil.rmtree(bench.paths.memo_dir)
    bench.train()
    assert bench.outputs() == expected


def test_a_changed_hyperparameter_refits_that_head_alone(bench):
    bench.train()
    bench.fits.clear()
    bench.heads["ridge"] = {"alpha": [10.0]}
    bench.train()
    # one per tap; the shuffled baseline too, where it was the best
    assert bench.fits["centroid"] <= 1
    assert 4 <= bench.fits["ridge"] <= 5


def test_a_new_tap_refits_no_other(bench):
    bench.train()
    bench.fits.clear()
    bench.baselines = ()
    net = bench.stores["net"]
    taps = {**net.taps, "c.gap": net.taps["a.gap"] + 1}
    bench.stores["net"] = type(net)("net", "transferred", taps, bench.keys)
    bench.train()
    assert bench.fits["ridge"] == 1
    assert bench.fits["centroid"] == 1 + 3 * (2 + 1)  # all labels; for each of 3 draws 2 folds and the fit


def test_a_renamed_backbone_refits_nothing(bench):
    bench.train()
    bench.fits.clear()
    bench.stores["network"] = bench.stores.pop("net")
    bench.train()
    assert not bench.fits


def test_a_changed_feature_refits_its_tap_alone(bench):
    bench.train()
    bench.fits.clear()
    bench.baselines = ()
    bench.stores["pixels"].taps["pixels.flatten"][7] += 1
    bench.train()
    assert bench.fits["ridge"] == 1


def test_changed_groups_refit_what_chooses_by_folds(bench):
    bench.train()
    bench.fits.clear()
    bench.groups = [bench.ids[0], *bench.ids[:1], *bench.ids[2:]]
    assert bench.train().num_fitted == 4  # centroid at k_shot 2 on each tap


@pytest.mark.parametrize("change", ["seed", "label", "by", "split"])
def test_what_a_fit_depends_on_refits_all(bench, change):
    bench.train()
    bench.fits.clear()
    if change == "seed":
        bench.seed = 1
    elif change == "by":
        bench.select = {"by": "nll"}
    elif change == "split":  # the same samples and labels, one of them now chosen by instead of learnt from
        bench.splits[0] = "val"
    else:
        bench.labels[0] = next(name for name in bench.classes if name != bench.labels[0])
    summary = bench.train()
    assert summary.num_recalled == 0


def test_a_killed_run_resumes_with_what_it_had_finished(bench, monkeypatch):
    bench.train()
    expected = bench.outputs()
    for path in (bench.paths.memo_dir, bench.paths.heads_dir):
        shutil.rmtree(path)
    fit_grid = registry.fit_grid

    def killed(family, candidates, X, y, **kwargs):
        if X.shape[1] == 4:  # the last backbone
            raise KeyboardInterrupt
        return fit_grid(family, candidates, X, y, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(registry, "fit_grid", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.train()
    resumed = bench.train()
    assert resumed.num_recalled == 9
    assert bench.outputs() == expected
    assert not list(bench.paths.memo_dir.glob(".*"))


@pytest.mark.parametrize("name", ["result.json", "scores.npy", "head"])
@pytest.mark.parametrize("how", ["gone", "cut short"])
def test_an_entry_that_lacks_a_part_is_fitted_again(bench, name, how):
    bench.train()
    expected = bench.outputs()
    path = next(bench.paths.memo_dir.glob(f"*/{name}"))
    if path.is_dir():
        shutil.rmtree(path)
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    again = bench.train()
    assert (again.num_fitted, again.num_recalled) == (1, 12)
    assert bench.outputs() == expected


def test_an_entry_appears_whole_or_not_at_all(tmp_path):
    memo = Memo(tmp_path, "code")

    def fails(folder):
        (folder / "half").write_text("")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        memo.unit({"a": 1}, fails)
    assert not list(tmp_path.iterdir())
    entry = memo.unit({"a": 1}, lambda folder: (folder / "whole").write_text("x"))
    assert (entry / "whole").read_text() == "x"


def test_what_a_dead_process_left_half_done_is_swept(tmp_path):
    (tmp_path / ".abc.999999999").mkdir()
    Memo(tmp_path, "code").sweep()
    assert not list(tmp_path.iterdir())


def test_edited_code_is_another_key(tmp_path):
    run = []
    for code in ("one", "one", "two"):
        Memo(tmp_path, code).unit({"a": 1}, lambda folder: run.append(folder))
    assert len(run) == 2


def test_the_digest_of_code_covers_heads_and_library_versions():
    assert code_digest(["embedpipe.heads"], ["numpy"]) != code_digest(["embedpipe.heads"], ["scikit-learn"])
    assert code_digest(["embedpipe.heads"], []) != code_digest(["embedpipe.train.fit"], [])
    assert keys.code_of_training() == keys.code_of_training()


@pytest.mark.parametrize(
    ("module", "code"), [(keys, "code_of_training"), (transfer_keys, "code_of_transfer")]
)
def test_every_module_that_metrics_and_grids_are_computed_by_is_in_the_key(module, code, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "code_digest", lambda packages, _: asked.extend(packages))
    getattr(module, code).__wrapped__()
    folders = {ROOT / Path(*package.split(".")) for package in asked}
    covered = {
        path
        for folder in folders
        for path in (folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")])
    }
    computed = closure(file_of("embedpipe.evaluate.metrics")) | {file_of("embedpipe.train.samples")}
    if module is keys:
        computed |= imports_of(file_of("embedpipe.train.fit"))
    else:
        computed -= {file_of("embedpipe.evaluate.dense")}  # no arm fits such tasks
    # a plan and its parts are said in the key; the others compute nothing
    said = {file_of(f"embedpipe.{name}") for name in ("errors", "train.plan", "evaluate.candidates")}
    assert {path for path in computed - said if path.stem != "__init__"} <= covered
