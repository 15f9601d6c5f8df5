"""Saved heads: equal bytes, equal predictions in a new process, and clear errors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from embedpipe.errors import NotFitted, WeightsError
from embedpipe.heads.allowed import ALLOWED
from embedpipe.heads.logistic import LogisticHead
from embedpipe.heads.registry import FAMILIES, fit_grid, load_head, save_head, supports

CASES = [
    *((family, kind) for family in FAMILIES for kind in ("classes", "number") if supports(family, kind)),
    *((f"sklearn:{name}", kind) for name, kind in ALLOWED.items()),
]

FIT = """
import sys, numpy as np
from pathlib import Path
from embedpipe.heads.registry import fit_grid, save_head
rng = np.random.default_rng(0)
noise = [object() for _ in range(int(sys.argv[2]))]  # other addresses in memory
X = rng.normal(size=(60, 9)).astype("f4"); y = np.arange(60) % 3; X[:, 0] += y
for family, kind in {cases!r}:
    head, = fit_grid(family, [{{}}], X, y if kind == "classes" else y.astype(float), kind=kind, seed=0)
    save_head(head, Path(sys.argv[1]) / family.replace(":", "_") / kind)
"""

PREDICT = """
import sys, numpy as np
from pathlib import Path
from embedpipe.heads.registry import load_head
X = np.load(sys.argv[2])
for folder in sorted(p.parent for p in Path(sys.argv[1]).rglob("head.json")):
    head = load_head(folder)
    np.save(folder / "predicted.npy", head.predict(X))
    if head.kind == "classes": np.save(folder / "proba.npy", head.predict_proba(X))
"""


def run(code, *arguments):
    subprocess.run([sys.executable, "-W", "error", "-c", code, *map(str, arguments)], check=True)


def test_two_processes_write_equal_bytes(tmp_path):
    code = FIT.format(cases=CASES)
    run(code, tmp_path / "a", 0)
    run(code, tmp_path / "b", 12_345)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len({p.parent for p in files}) == len(CASES)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_new_process_predicts_equal_to_the_bit(tmp_path, features):
    X, codes = features(60, 9, 3)
    np.save(tmp_path / "X.npy", X)
    heads = {}
    for family, kind in CASES:
        y = codes if kind == "classes" else codes.astype(float)
        (head,) = fit_grid(family, [{}], X, y, kind=kind, seed=0)
        folder = tmp_path / "heads" / family.replace(":", "_") / kind
        save_head(head, folder)
        heads[folder] = head
    run(PREDICT, tmp_path / "heads", tmp_path / "X.npy")
    for folder, head in heads.items():
        np.testing.assert_array_equal(np.load(folder / "predicted.npy"), head.predict(X), str(folder))
        if head.kind == "classes":
            np.testing.assert_array_equal(np.load(folder / "proba.npy"), head.predict_proba(X), str(folder))


def test_labels_that_are_text_come_back(tmp_path, features):
    X, codes = features(40, 6, 3)
    names = np.array(["ant", "bée", "wasp"])[codes]
    head = LogisticHead().fit(X, names)
    save_head(head, tmp_path)
    loaded = load_head(tmp_path)
    assert loaded.get_params() == head.get_params()
    assert loaded.converged_ is True and loaded.n_features_in_ == 6
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))


def test_nothing_saved_is_a_pickle(tmp_path, features):
    X, codes = features(40, 6, 3)
    (head,) = fit_grid("sklearn:svm.SVC", [{}], X, codes, kind="classes", seed=0)
    save_head(head, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.json", "head.safetensors", "head.skops"]
    for file in tmp_path.iterdir():
        assert not file.read_bytes().startswith(b"\x80")


@pytest.fixture
def saved(tmp_path, features):
    X, codes = features(40, 6, 3)
    save_head(LogisticHead().fit(X, codes), tmp_path / "head")
    return tmp_path / "head"


def edit_card(folder, **changes):
    card = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**card, **changes}))


def test_a_flipped_byte_is_found(saved):
    data = bytearray((saved / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "head.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"head\.safetensors: damaged: expected blake2b"):
        load_head(saved)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "head.json").unlink(), "expected a saved head, found no readable head.json"),
        (lambda d: (d / "head.json").write_text("{"), "damaged: not valid JSON"),
        (lambda d: (d / "head.json").write_text("[]"), "not the card of a saved head"),
        (lambda d: (d / "head.safetensors").unlink(), r"expected head\.safetensors beside head\.json"),
        (lambda d: edit_card(d, format_version=99), "expected head format 1, found 99"),
        (lambda d: edit_card(d, family="oracle"), "not a head that this version can read"),
        (lambda d: edit_card(d, params={"D": 1}), "not a head that this version can read"),
        (lambda d: edit_card(d, digests={}), "not a head that this version can read"),
        (lambda d: edit_card(d, digests=3), "not the card of a saved head"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_clear_error(saved, damage, words):
    damage(saved)
    with pytest.raises(WeightsError, match=words):
        load_head(saved)


def test_a_head_not_fitted_cannot_be_saved(tmp_path):
    with pytest.raises(NotFitted, match="nothing to save"):
        save_head(LogisticHead(), tmp_path)
