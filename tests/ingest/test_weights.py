"""What samples count: a column beside the labels, joined by id, and every unusable one refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embedpipe.errors import DataError
from embedpipe.manifest.targets import Targets


def texts(project: Any, weights: list[str], name: str = "trust") -> None:
    """Sixteen texts with columns `label` and `trust`; ids t00, t01 …"""
    rows = [
        f"t{i:02d},text {i},{'ab'[i // 4 % 2]},{weights[i % len(weights)]},{('train', 'train', 'val', 'test')[i % 4]}"
        for i in range(16)
    ]
    project.write("t.csv", "\n".join([f"id,text,label,{name},part", *rows]) + "\n")
    source = {"kind": "table", "path": "t.csv", "text": "text"}
    project.ingest({"source": source, "id": "id", "split": {"column": "part"}})


def read(project: Any, name: str) -> Targets:
    return Targets.read(project.targets_dir / f"{name}.parquet")


def test_a_column_of_the_data_set_says_what_training_samples_count(project: Any) -> None:
    texts(project, ["2", "0", "", ""])
    summary = project.targets(labels="label", weight="trust")
    opened = read(project, "open")
    weight = opened.weight_of(opened.sample_ids)
    assert weight is not None
    is_train = opened.splits == "train"
    np.testing.assert_array_equal(weight[is_train], [2.0, 0.0] * 4)
    assert np.isnan(weight[~is_train]).all()
    assert summary.notes == ["4 training samples weigh 0: not learnt from"]


def test_a_table_of_labels_has_the_weights_beside_them_and_the_sealed_test_has_none(project: Any) -> None:
    texts(project, ["1"])
    project.write(
        "own.csv", "id,kind,sure\n" + "".join(f"t{i:02d},{'xy'[i // 4 % 2]},0.{i + 1}\n" for i in range(16))
    )
    project.targets(labels="own.csv", weight="sure")
    opened, sealed = read(project, "open"), read(project, "sealed")
    assert opened.classes == ("x", "y")
    weight = opened.weight_of(np.array(["t01", "t02", "nobody"]))
    np.testing.assert_array_equal(weight, [0.2, np.nan, np.nan])
    assert sealed.weight_of(sealed.sample_ids) is None
    assert Targets.read(project.targets_dir / "open.parquet").table.equals(opened.table)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (
            ["1", "", "1", "1"],
            r"expected a weight of every labelled training sample in column 'trust' .* 't01'",
        ),
        (["1", "-1"], r"expected numbers of 0 or more .* found '-1' for 't01'"),
        (["1", "much"], r"expected numbers of 0 or more .* found 'much' for 't01'"),
        (["1", "inf"], r"expected numbers of 0 or more .* for 't01'"),
        (["0", "0"], "expected a training sample of a weight above 0 .* found 0 for all"),
    ],
)
def test_a_column_that_says_no_weights_is_refused(project: Any, weights: list[str], words: str) -> None:
    texts(project, weights)
    with pytest.raises(DataError, match=rf"tasks\.kind\.weight: {words}"):
        project.targets(labels="label", weight="trust")


def test_a_column_that_is_not_there_is_refused_with_the_near_name(project: Any) -> None:
    texts(project, ["1"])
    with pytest.raises(
        DataError, match=r"weight: no column 'trusty' .did you mean 'trust'.. in data set 'photos'"
    ):
        project.targets(labels="label", weight="trusty")
    project.write(
        "own.csv", "id,kind,sure\n" + "".join(f"t{i:02d},{'xy'[i // 4 % 2]},1\n" for i in range(16))
    )
    with pytest.raises(DataError, match="did you mean 'sure'"):
        project.targets(labels="own.csv", weight="shure")


def test_without_weights_targets_are_the_bytes_that_they_were(project: Any) -> None:
    texts(project, ["1"])
    project.targets(labels="label")
    assert read(project, "open").table.column_names == ["sample_id", "split", "label"]
