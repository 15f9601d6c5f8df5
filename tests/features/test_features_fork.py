"""Features in processes that were forked while threads of their parent read them."""

import multiprocessing
import threading

import numpy as np
import pytest

from embedpipe.features.features import Features
from embedpipe.manifest.table import Manifest

from .conftest import GAP, feature, key_of

NAMES = [f"s{i:03d}" for i in range(40)]


def manifest_of(names):
    return Manifest.from_rows(
        "photos", {}, "image", sample_ids=names, keys=[key_of(name) for name in names], domain="target",
        groups=names, splits=["train"] * len(names), locators=names,
    )  # fmt: skip


def read_all(features, found):
    matrix = np.concatenate([batch.X for batch in features.batches(7, shuffle="global", read_ahead=True)])
    ids = np.concatenate([batch.sample_ids for batch in features.batches(7, shuffle="global")])
    found.put((ids.tolist(), matrix))
    found.close()
    found.join_thread()


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("memory_nbytes", [10**9, 64])
def test_features_forked_while_threads_read_them_read_on(make_store, memory_nbytes):
    path, manifest = make_store(NAMES), manifest_of(NAMES)
    context = multiprocessing.get_context("fork")
    done = threading.Event()
    held = [Features.of(manifest, [(path, GAP.name)], memory_nbytes=memory_nbytes)]

    def read_on():
        while not done.is_set():  # new ones, so that the matrix is often being read for the first time
            held[0] = Features.of(manifest, [(path, GAP.name)], memory_nbytes=memory_nbytes)
            for batch in held[0].batches(3, shuffle="chunks"):
                assert len(batch.sample_ids) == len(batch.X)

    threads = [threading.Thread(target=read_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            found = context.Queue()
            child = context.Process(target=read_all, args=(held[0], found), daemon=True)
            child.start()
            ids, matrix = found.get(timeout=60)
            child.join(60)
            assert child.exitcode == 0
            assert sorted(ids) == NAMES
            np.testing.assert_array_equal(matrix, np.stack([feature(name, GAP) for name in ids]))
    finally:
        done.set()
        for thread in threads:
            thread.join()
