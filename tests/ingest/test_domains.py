"""Several sources in one manifest, samples of two domains, and splits between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from embedpipe.errors import ConfigError, DataError

Png = Callable[[int], bytes]
TWO = {
    "kind": "several",
    "of": {"amazon": {"kind": "folder", "path": "a"}, "webcam": {"kind": "folder", "path": "w"}},
}


@pytest.fixture
def office(project: Any, png: Png) -> Any:
    """Forty images of amazon and twenty of webcam, of two classes; one is in both."""
    for i in range(40):
        project.write(f"a/{'bike' if i % 2 else 'mug'}/{i}.png", png(i))
    for i in range(39, 59):
        project.write(f"w/{'bike' if i % 2 else 'mug'}/{i}.png", png(i))
    return project


def domains(**split: Any) -> dict[str, Any]:
    return {"source": TWO, "domain": {"column": "source", "source": ["amazon"]}, "split": split}


def test_samples_of_several_sources_are_one_data_set(office: Any) -> None:
    summary = office.ingest({"source": TWO})
    assert summary.num_samples == 60
    assert {name.split("/")[0] for name in office.manifest.sample_ids} == {"amazon", "webcam"}
    assert "amazon/mug/0.png" in set(office.manifest.sample_ids)
    assert office.ingest({"source": TWO}).num_looked_at == 0


def test_heads_learn_from_one_domain_and_are_tested_on_the_other(office: Any) -> None:
    summary = office.ingest(domains(by="domain", val=0.25))
    manifest = office.manifest
    of_source = {name.split("/")[0] for name in manifest.sample_ids[manifest.domains == "source"]}
    assert of_source == {"amazon"}
    assert set(manifest.splits[manifest.domains == "target"]) == {"test"}
    assert set(manifest.splits[manifest.domains == "source"]) == {"train", "val", "excluded"}
    assert summary.splits["test"] == 20 and summary.splits["excluded"] == 1
    assert any("excluded 1 samples whose content is also in test" in note for note in summary.notes)
    assert office.targets(labels="label").num["test"] == 20


def test_domains_without_a_split_between_them_are_all_embedded_and_shared_out(office: Any) -> None:
    office.ingest(domains())
    manifest = office.manifest
    assert set(manifest.splits[manifest.domains == "target"]) == {"train", "val", "test"}


def test_a_column_of_the_table_may_tell_domains_apart(project: Any) -> None:
    rows = "\n".join(f"{i},text {i},{'old' if i < 30 else 'new'}" for i in range(50))
    project.write("t.csv", f"id,text,era\n{rows}\n")
    raw = {"source": {"kind": "table", "path": "t.csv", "text": "text"}, "id": "id"}
    project.ingest({**raw, "domain": {"column": "era", "source": ["old"]}, "split": {"by": "domain"}})
    assert (project.manifest.splits == "test").sum() == 20


def test_one_domain_alone_is_refused_with_what_there_is(office: Any) -> None:
    raw = {"source": TWO, "domain": {"column": "source", "source": ["dslr"]}}
    with pytest.raises(
        DataError,
        match=r"photos.domain: expected samples of both domains, found target alone "
        r"\(column 'source' holds amazon, webcam\)",
    ):
        office.ingest(raw)


def test_a_split_by_domain_needs_to_know_the_domains(office: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"split.by: domain needs to know which samples are of which domain"
    ):
        office.ingest({"source": TWO, "split": {"by": "domain"}})
    with pytest.raises(ConfigError, match="by: domain excludes column and stratify"):
        office.ingest(domains(by="domain", stratify="label"))


def test_sources_of_two_modalities_are_refused(office: Any) -> None:
    office.write("t.csv", "text\nx\n")
    of = {**TWO["of"], "notes": {"kind": "table", "path": "t.csv", "text": "text"}}  # type: ignore[dict-item]
    with pytest.raises(
        ConfigError,
        match=r"source.of: expected sources of one modality, found amazon image, webcam image, notes text",
    ):
        office.ingest({"source": {"kind": "several", "of": of}})


def test_an_error_names_the_source_it_is_of(office: Any) -> None:
    of = {"amazon": TWO["of"]["amazon"], "gone": {"kind": "folder", "path": "nowhere"}}  # type: ignore[index]
    with pytest.raises(
        DataError, match=r"datasets.photos: source.of.gone: .*nowhere: expected a folder of images"
    ):
        office.ingest({"source": {"kind": "several", "of": of}})
