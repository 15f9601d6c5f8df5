"""Samples that a source model learnt from and that heads are judged on."""

from embedpipe.compare.overlap import overlap_notes, shared_samples
from embedpipe.manifest.table import Manifest


def manifest(dataset, domain, keys, splits):
    ids = [f"{dataset}{i}" for i in range(len(keys))]
    return Manifest.from_rows(
        dataset,
        {"kind": "folder"},
        "image",
        sample_ids=ids,
        keys=[key.to_bytes(16) for key in keys],
        domain=domain,
        groups=ids,
        splits=splits,
        locators=ids,
    )


def test_equal_content_is_counted_by_the_split_that_judges():
    source = manifest("letters", "source", [1, 2, 3, 4, 9], ["train", "train", "val", "test", "train"])
    # 4 was in the source's own test and 5 nowhere: a model has learnt from neither
    target = manifest("digits", "target", [1, 2, 3, 4, 5], ["train", "val", "test", "test", "val"])
    assert shared_samples(source, target) == {"val": 1, "test": 1}
    assert overlap_notes(target, {"cnn": source}) == [
        "1 of val and 1 of test in digits are also in letters, where source model cnn learnt from them: figures of "
        "its features are too good; take them out of one"
    ]


def test_an_image_beside_a_text_is_found_and_an_equal_text_is_not():
    source = manifest("letters", "source", [1, 2], ["train", "train"])
    ids, keys = ["a", "b", "c"], [[7, 8, 2], [3, 1, 4]]
    texts, images = ([key.to_bytes(16) for key in of] for of in keys)
    target = Manifest.from_rows(
        "posts", {"kind": "table"}, "text", sample_ids=ids, keys=texts, domain="target", groups=ids,
        splits=["val", "test", "val"], locators=ids, also={"image": (images, ids)},
    )  # fmt: skip
    assert shared_samples(source, target) == {"val": 0, "test": 1}


def test_nothing_is_said_of_sources_that_share_nothing():
    source = manifest("letters", "source", [1], ["train"])
    assert overlap_notes(manifest("digits", "target", [2, 1], ["val", "train"]), {"cnn": source}) == []
