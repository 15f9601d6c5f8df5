"""What every source promises: stable ids, keys of the content alone, bad samples by name, any worker."""

from __future__ import annotations

import importlib.util
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedpipe.errors import UnreadableSample
from embedpipe.manifest.keys import array_key
from embedpipe.sources.base import REGISTRY, Scanned, Seen, Source, open_source
from embedpipe.testing import check_source

_spec = importlib.util.spec_from_file_location("source_kinds", Path(__file__).parent / "kinds.py")
assert _spec is not None and _spec.loader is not None
kinds = importlib.util.module_from_spec(_spec)
sys.modules["source_kinds"] = kinds
_spec.loader.exec_module(kinds)


@pytest.fixture(scope="module", params=list(kinds.KINDS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a maker wrote, and where."""
    root = tmp_path_factory.mktemp(request.param)
    return root, kinds.KINDS[request.param](root)


@pytest.fixture
def source(made: Any) -> Source:
    return opened(made)


def opened(made: Any) -> Source:
    root, about = made
    return open_source(about.options, root, **about.open_with)


def scan(source: Source, known: dict[str, Seen] | None = None) -> list[Scanned]:
    return list(source.scan(known or {}))


def digest_of(source: Source, locator: str) -> bytes:
    """In another thread or process."""
    return array_key(np.asarray(source.read(locator)))


def fresh(source: Source) -> Source:
    copy: Source = pickle.loads(pickle.dumps(source))
    return copy


def test_every_kind_is_under_contract() -> None:
    here = {make.split("_")[0] for make in kinds.KINDS} | {"arrays"}
    assert set(REGISTRY) - here == {"glyphs", "sklearn"}, "they are tested in test_generated.py"


def test_every_sample_is_listed_once_under_a_stable_name(made: Any, source: Source) -> None:
    first, again = scan(source), scan(opened(made))
    assert [s.sample_id for s in first] == [s.sample_id for s in again]
    about = made[1]
    assert sorted(s.sample_id for s in first) == sorted([*about.names, *([about.bad] if about.bad else [])])
    assert len({s.locator for s in first}) == len(first)


def test_equal_content_has_equal_keys_whatever_holds_it(made: Any, source: Source) -> None:
    about = made[1]
    found = {s.sample_id: s.key for s in scan(source)}
    assert [found[name] for name in about.names] == about.keys


def test_what_is_read_is_what_was_put_in(made: Any, source: Source) -> None:
    locators = {s.sample_id: s.locator for s in scan(source)}
    expected = kinds.GREY if "torchvision" in made[1].options["kind"] else kinds.PIXELS
    for i, name in enumerate(made[1].names):
        np.testing.assert_array_equal(np.asarray(source.read(locators[name])), expected[i % kinds.NUM])


def test_labels_stand_beside_their_samples(made: Any, source: Source) -> None:
    names = made[1].names
    labels = {s.sample_id: s.labels for s in scan(source)}
    for i, name in enumerate(names):
        value = next(labels[name][key] for key in ("digit", "cls", "label") if key in labels[name])
        assert str(value).removeprefix("class")[0] == str(kinds.DIGITS[i % kinds.NUM])


def test_an_unreadable_sample_is_listed_by_name_and_the_others_go_on(made: Any, source: Source) -> None:
    bad = made[1].bad
    failed = [s for s in scan(source) if s.key is None]
    if bad is None:
        assert failed == []
        return
    (sample,) = failed
    assert sample.sample_id == bad
    assert sample.reason and "\n" not in sample.reason
    with pytest.raises(UnreadableSample):
        source.read(sample.locator)


def test_a_locator_of_nothing_is_one_unreadable_sample(source: Source) -> None:
    for locator in ("nowhere", "a/999999", "999999"):
        with pytest.raises(UnreadableSample):
            source.read(locator)


def test_what_has_not_changed_is_not_looked_at_again(made: Any, source: Source) -> None:
    first = scan(source)
    marked = {s.locator: Seen(s.stamp, b"k" * 16, None, s.extra) for s in first if s.stamp is not None}
    again = {s.locator: s for s in scan(opened(made), marked)}
    if "python" not in made[1].options["kind"]:  # the one in the test remembers nothing
        assert marked.keys() >= {s.locator for s in first if s.reason != "no such file"}
    for s in first:
        found = again[s.locator]
        assert (found.sample_id, found.labels, found.split) == (s.sample_id, s.labels, s.split)
        if s.locator in marked:
            assert found.key == b"k" * 16


def test_every_source_passes_the_checks_that_users_may_run(made: Any) -> None:
    root, about = made
    check_source(about.options, root=root, **about.open_with)


def test_threads_read_the_same(source: Source) -> None:
    locators = [s.locator for s in scan(source) if s.key is not None]
    alone = [digest_of(source, locator) for locator in locators]
    unopened = fresh(source)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda at: digest_of(unopened, at), locators * 4)) == alone * 4


def _read_after_fork(source: Source, locators: list[str], queue: Any) -> None:
    queue.put([digest_of(source, locator) for locator in locators])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_the_same(source: Source) -> None:
    locators = [s.locator for s in scan(source) if s.key is not None]
    alone = [digest_of(source, locator) for locator in locators]  # what is open now is inherited
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_read_after_fork, args=(source, locators, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    assert found == [alone, alone]
    assert [digest_of(source, locator) for locator in locators] == alone


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_a_spawned_process_reads_the_same(source: Source, spawned: ProcessPoolExecutor) -> None:
    locators = [s.locator for s in scan(source) if s.key is not None]
    alone = [digest_of(source, locator) for locator in locators]
    found = [np.asarray(image) for image in spawned.map(source.read, locators)]
    assert [array_key(image) for image in found] == alone
