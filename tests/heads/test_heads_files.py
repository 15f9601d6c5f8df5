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

SCRIPT = """
import sys, numpy as np
from pathlib import Path
from embedpipe.heads.registry import family_of, fit_grid, load_head, save_head
mine, others = Path(sys.argv[1]), Path(sys.argv[2])
noise = [object() for _ in range(int(sys.argv[3]))]  # other addresses in memory
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 9)).astype("f4"); y = np.arange(60) % 3; X[:, 0] += y
def predict(head, folder, name):
    np.save(folder / f"{name}.npy", head.predict(Z))
    if head.kind == "classes": np.save(folder / f"{name}_proba.npy", head.predict_proba(Z))
for family, kind in CASES:
    part = Path(family.replace(":", "_")) / kind
    Z = X.reshape(60, 1, 3, 3) if family_of(family).inputs in ("maps", "tokens") else X
    head, = fit_grid(family, [{}], Z, y if kind == "classes" else y.astype(float), kind=kind, seed=0)
    save_head(head, mine / part)
    predict(head, mine / part, "fitted")
    if others.exists(): predict(load_head(others / part), others / part, "loaded")
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folders of the same heads, each fitted by its own process; the second process loads the first's."""
    folder = tmp_path_factory.mktemp("heads")
    code = f"CASES = {CASES!r}\n{SCRIPT}"
    for mine, others, noise in (("a", "none", "0"), ("b", "a", "12345")):
        arguments = [str(folder / mine), str(folder / others), noise]
        subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], check=True)
    return folder / "a", folder / "b"


def test_two_processes_write_equal_bytes(two_processes):
    first, second = two_processes
    names = sorted(p.relative_to(first) for p in first.rglob("head.*"))
    assert len({name.parent for name in names}) == len(CASES)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_new_process_predicts_equal_to_the_bit(two_processes):
    first, _ = two_processes
    fitted = sorted(first.rglob("fitted*.npy"))
    assert len(fitted) >= len(CASES)
    for path in fitted:
        loaded = np.load(path.with_name(path.name.replace("fitted", "loaded")))
        np.testing.assert_array_equal(loaded, np.load(path), str(path))


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
