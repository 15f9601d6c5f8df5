"""Digits and letters: what they hold, and that they are the same everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from embedpipe.errors import UnreadableSample
from embedpipe.sources.base import Seen, Source, open_source
from embedpipe.sources.glyphs import LETTERS
from embedpipe.sources.sklearn import slant

ROOT = Path(".")


def letters(num_samples: int = 104, **options: Any) -> Source:
    return open_source({"kind": "glyphs", "num_samples": num_samples, **options}, ROOT)


def pixels(source: Source, locator: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(source.read(locator))


def test_digits_are_those_of_scikit_learn() -> None:
    source, reference = open_source({"kind": "sklearn"}, ROOT), load_digits()
    samples = list(source.scan({}))
    assert len(samples) == 1797
    assert [s.labels["digit"] for s in samples] == [str(d) for d in reference.target]
    assert {(int(str(s.labels["digit"])) % 2, s.labels["parity"]) for s in samples} == {
        (0, "even"),
        (1, "odd"),
    }
    stacked = np.stack([pixels(source, s.locator) for s in samples])
    assert stacked.dtype == np.uint8
    # 17 levels survive: dividing by 255/16 and rounding gives them back
    np.testing.assert_array_equal(np.rint(stacked / 255 * 16), reference.images)


def test_slant_is_the_slope_of_columns_on_rows() -> None:
    image = load_digits().images[10]
    rows, columns = np.indices(image.shape)
    cov = np.cov(np.stack([rows.ravel(), columns.ravel()]), aweights=image.ravel(), ddof=0)
    assert slant(image) == pytest.approx(cov[0, 1] / cov[0, 0], abs=1e-6)


def test_slant_of_a_diagonal_is_one_and_of_nothing_zero() -> None:
    assert slant(np.eye(8)) == pytest.approx(1.0)
    assert slant(np.fliplr(np.eye(8))) == pytest.approx(-1.0)
    assert slant(np.zeros((8, 8))) == 0.0
    assert slant(np.eye(8)[:1]) == 0.0


def test_letters_have_52_classes_in_turn() -> None:
    samples = list(letters().scan({}))
    assert [s.labels["letter"] for s in samples] == list(LETTERS) * 2
    assert len({s.key for s in samples}) == 104


def test_more_letters_leave_the_first_as_they_are() -> None:
    few, many = list(letters(60).scan({})), list(letters(120).scan({}))
    assert [(s.sample_id, s.key) for s in many[:60]] == [(s.sample_id, s.key) for s in few]


def test_another_seed_gives_other_letters() -> None:
    keys = [{s.key for s in letters(52, seed=seed).scan({})} for seed in (0, 1)]
    assert not keys[0] & keys[1]


def test_letters_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib, pathlib; from embedpipe.sources.base import open_source; "
        "s = open_source({'kind': 'glyphs', 'num_samples': 52}, pathlib.Path('.')); "
        "print(hashlib.sha256(b''.join(x.key for x in s.scan({}))).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = hashlib.sha256(b"".join(s.key or b"" for s in letters(52).scan({}))).hexdigest()
    assert there.strip() == here


def test_a_letter_does_not_depend_on_which_were_read_before() -> None:
    ordered, alone = letters(), letters()
    for i in range(70):
        ordered.read(f"{i:07d}")
    np.testing.assert_array_equal(pixels(ordered, "0000069"), pixels(alone, "0000069"))


@pytest.mark.parametrize("image_px", [8, 16])
def test_letters_have_the_size_asked_for(image_px: int) -> None:
    image = letters(image_px=image_px).read("0000003")
    assert not isinstance(image, str)
    assert (image.size, image.mode) == ((image_px, image_px), "L")


def test_letters_look_as_digits_do() -> None:
    source = letters(1040)
    stacked = np.stack([pixels(source, f"{i:07d}") for i in range(1040)]) / 255
    digits = load_digits().images / 16
    assert stacked.mean() == pytest.approx(digits.mean(), abs=0.05)
    assert stacked.std() == pytest.approx(digits.std(), abs=0.05)
    # ink reaches the top and the bottom row, as in digits
    for row in (0, -1):
        assert stacked[:, row].max(axis=1).mean() == pytest.approx(digits[:, row].max(axis=1).mean(), abs=0.2)


def test_letters_made_before_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(letters().scan({}))
    known = {s.locator: Seen(str(s.stamp), s.key, None) for s in first}
    source = letters()
    monkeypatch.setattr(source, "_draw", lambda i: pytest.fail(f"letter {i} was drawn again"))
    assert [s.key for s in source.scan(known)] == [s.key for s in first]


def test_scans_report_progress() -> None:
    told: list[tuple[int, int, str]] = []
    list(letters(150).scan({}, lambda *args: told.append(args)))
    assert told == [(100, 150, "letters"), (150, 150, "letters")]


@pytest.mark.parametrize("config", [{"kind": "sklearn"}, {"kind": "glyphs", "num_samples": 52}])
def test_a_locator_out_of_range_is_unreadable(config: dict[str, Any]) -> None:
    with pytest.raises(UnreadableSample, match=r"expected .* found '99999'"):
        open_source(config, ROOT).read("99999")
