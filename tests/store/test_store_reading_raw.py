"""Rows read straight out of shards: checked once, found damaged later, the same from threads and other processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zarr
from zarr.codecs import Crc32cCodec

from embedpipe.errors import ShapeError, StoreError
from embedpipe.store import FeatureStore, publish, shards
from embedpipe.store.arrays import ArrayLayout, ArrayReader
from embedpipe.store.disk import NUM_HELD, FileRecord, record_of_file, write_file
from embedpipe.store.encoding import encode_metadata, encode_shard

from .conftest import GAP, GRID, Grower, expected

NAMES = [f"s{i:03d}" for i in range(75)]


def age(root: Path, seconds: float = 60) -> None:
    """Make files as old as they would be when somebody reads them."""
    for path in root.rglob("*"):
        if path.is_file():
            stat = path.stat()
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - int(seconds * 1e9)))


@pytest.fixture
def published(grower: Grower, tmp_path: Path) -> Path:
    group = grower.grow(NAMES)
    destination = tmp_path / "features" / "tiny"
    publish(group, [GAP.name, GRID.name], destination)
    age(destination)
    return destination


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what is compared with a checksum from here on."""
    sizes: list[int] = []
    value = shards.google_crc32c.value

    class Counting:
        @staticmethod
        def value(data: object) -> int:
            sizes.append(memoryview(data).nbytes)  # type: ignore[arg-type]
            return int(value(data))

    monkeypatch.setattr(shards, "google_crc32c", Counting)
    return sizes


def inplace(path: Path, offset: int) -> None:
    """Flip a bit without another inode; the time of modification changes."""
    os.chmod(path, 0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("seed", range(20))
def test_any_rows_in_any_order_are_what_zarr_reads(published: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    store = FeatureStore.open(published)
    plain = {tap: zarr.open_group(str(published), mode="r")[tap.name][...] for tap in (GAP, GRID)}
    rows = rng.integers(0, len(NAMES), rng.integers(0, 200))
    low, high = np.sort(rng.integers(0, len(NAMES) + 1, 2)).tolist()
    for tap, values in plain.items():
        np.testing.assert_array_equal(store.read(tap.name, rows), values[rows])
        np.testing.assert_array_equal(store.read(tap.name, slice(low, high)), values[low:high])


def test_reading_needs_no_zarr(published: Path) -> None:
    code = (
        "import sys; from embedpipe.store import FeatureStore\n"
        f"store = FeatureStore.open({str(published)!r})\n"
        f"store.read({GAP.name!r}, [3, 1]); store.read({GRID.name!r}, slice(None)); store.keys; store.parts\n"
        "assert 'zarr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_buffer_is_filled_and_returned(published: Path) -> None:
    store = FeatureStore.open(published)
    out = np.zeros((5, 6), np.float16)
    assert store.read(GAP.name, slice(10, 15), out) is out
    np.testing.assert_array_equal(out, expected(NAMES[10:15], GAP))
    assert store.read(GAP.name, [4, 3, 2, 1, 0], out) is out
    np.testing.assert_array_equal(out, expected(NAMES[4::-1], GAP))
    with pytest.raises(
        ShapeError, match=r"expected a contiguous float16 array of shape \(5, 6\), found float32"
    ):
        store.read(GAP.name, slice(0, 5), np.zeros((5, 6), np.float32))


def test_each_inner_chunk_is_checked_when_first_touched_and_not_again(
    published: Path, checked: list[int]
) -> None:
    store = FeatureStore.open(published)
    store.read(GAP.name, [0])
    first = len(checked)
    assert first == 2  # the index of one shard and one inner chunk
    store.read(GAP.name, [0, 1])
    store.read(GAP.name, slice(0, 2))
    FeatureStore.open(published).read(GAP.name, [1])
    assert len(checked) == first
    store.read(GAP.name, slice(None))
    everything = len(checked)
    store.read(GAP.name, np.random.default_rng(0).permutation(len(NAMES)))
    assert len(checked) == everything


def test_two_names_of_one_file_are_checked_once(published: Path, grower: Grower, checked: list[int]) -> None:
    FeatureStore.open(published).read(GAP.name, slice(None))
    num = len(checked)
    FeatureStore.open(grower.open().path).read(GAP.name, slice(None))
    assert len(checked) == num


def test_what_was_written_a_moment_ago_is_checked_each_time(published: Path, checked: list[int]) -> None:
    os.utime(published / GAP.name / "c" / "0" / "0")
    for _ in range(2):
        FeatureStore.open(published).read(GAP.name, [0])
    assert len(checked) == 4


@pytest.mark.parametrize("rows", [[0], slice(0, 1), [70, 0]])
def test_damage_after_the_first_touch_is_found_at_the_next(published: Path, rows: object) -> None:
    store = FeatureStore.open(published)
    store.read(GAP.name, slice(None))
    shard = published / GAP.name / "c" / "0" / "0"
    inplace(shard, 3)
    with pytest.raises(StoreError, match=rf"{shard}: damaged: the checksum of inner chunk 0 differs"):
        store.read(GAP.name, rows)  # type: ignore[arg-type]
    inplace(shard, 3)
    np.testing.assert_array_equal(store.read(GAP.name, [0]), expected(NAMES[:1], GAP))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.unlink(), "the file is missing"),
        (lambda p: os.truncate(p, p.stat().st_size - 1), "expected .* bytes, found"),
        (lambda p: os.truncate(p, 0), "expected .* bytes, found 0"),
        (lambda p: inplace(p, p.stat().st_size - 9), "the checksum of its index differs"),
    ],
)
def test_a_shard_lost_or_cut_while_the_store_is_open_is_named(
    published: Path, change: object, words: str
) -> None:
    store = FeatureStore.open(published)
    store.read(GAP.name, slice(None))
    shard = published / GAP.name / "c" / "1" / "0"
    os.chmod(shard, 0o644)
    change(shard)  # type: ignore[operator]
    for rows in ([16], slice(10, 20)):
        with pytest.raises(StoreError, match=rf"{shard}: damaged: {words}"):
            store.read(GAP.name, rows)


def test_metadata_of_another_array_are_refused(published: Path) -> None:
    path = published / GAP.name / "zarr.json"
    path.unlink()
    path.write_bytes((published / GRID.name / "zarr.json").read_bytes())
    with pytest.raises(StoreError, match=rf"{path}: damaged: expected 75 rows"):
        FeatureStore.open(published).read(GAP.name, [0])


def test_rows_that_were_never_written_are_the_fill_value(grower: Grower, tmp_path: Path) -> None:
    grower.grow(NAMES[:3])
    group = grower.grow(NAMES, [GRID])
    publish(group, [GAP.name, GRID.name], tmp_path / "out")
    store = FeatureStore.open(tmp_path / "out")
    for rows in (slice(None), np.arange(75)):
        found = store.read(GAP.name, rows)
        np.testing.assert_array_equal(found[:3], expected(NAMES[:3], GAP))
        assert np.isnan(found[3:]).all()


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_other_codecs_are_read_by_zarr(tmp_path: Path, compressed: bool) -> None:
    values = np.random.default_rng(0).standard_normal((50, 4)).astype("float32")
    zarr.create_array(
        str(tmp_path / "tap"),
        data=values,
        shards=(16, 4),
        chunks=(4, 4),
        compressors=[zarr.codecs.ZstdCodec()] if compressed else [Crc32cCodec()],
        fill_value=float("nan"),
    )
    layout = ArrayLayout("tap", (4,), "float32", 16, 4, float("nan"))
    files: dict[str, FileRecord] = {
        path.relative_to(tmp_path).as_posix(): record_of_file(path)
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    reader = ArrayReader(tmp_path, layout, 50, files)
    assert reader.is_raw is not compressed
    rows = np.array([49, 3, 3, 17, 0])
    np.testing.assert_array_equal(reader.gather(rows), values[rows])
    np.testing.assert_array_equal(reader.read(5, 41), values[5:41])
    (tmp_path / "tap" / "c" / "1" / "0").unlink()
    with pytest.raises(StoreError, match="c/1/0: damaged: the file is missing"):
        reader.gather(rows)


def test_more_shards_than_a_process_may_map_are_read(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_MAX_MAPPED", 2)
    store = FeatureStore.open(published)
    rows = np.random.default_rng(1).permutation(len(NAMES))
    np.testing.assert_array_equal(store.read(GAP.name, rows), expected([NAMES[r] for r in rows], GAP))
    store.release()
    np.testing.assert_array_equal(store.read(GAP.name, slice(None)), expected(NAMES, GAP))


def test_threads_read_the_same(published: Path) -> None:
    store = FeatureStore.open(published)
    everything = expected(NAMES, GAP)

    def check(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, len(NAMES), 50)
        return bool(np.array_equal(store.read(GAP.name, rows), everything[rows]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(200)))


def _read_in_child(store: FeatureStore, rows: list[int], queue: object) -> None:
    queue.put(store.read(GAP.name, rows).tobytes())  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_started_with_an_open_store_read_the_same(published: Path, method: str) -> None:
    store = FeatureStore.open(published)
    store.read(GAP.name, slice(None))  # mapped before the fork
    assert len(store.keys) == 75
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    rows = [74, 0, 33]
    children = [
        context.Process(target=_read_in_child, args=(store, rows, queue), daemon=True) for _ in range(2)
    ]
    for child in children:
        child.start()
    for _ in children:
        assert queue.get(timeout=60) == expected([NAMES[r] for r in rows], GAP).tobytes()
    for child in children:
        child.join(60)
        assert child.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_while_threads_read_does_not_hang(published: Path) -> None:
    store = FeatureStore.open(published)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(lambda: [store.read(GAP.name, [i % 75]) for i in range(3000)]) for _ in range(2)]
        children = [
            context.Process(target=_read_in_child, args=(store, [5], queue), daemon=True) for _ in range(4)
        ]
        for child in children:
            child.start()
        for _ in children:
            assert queue.get(timeout=60) == expected(["s005"], GAP).tobytes()
        for child in children:
            child.join(60)
        for one in busy:
            one.result()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_read_the_same(published: Path, method: str) -> None:
    code = f"""
import numpy as np, torch
from embedpipe.store import FeatureStore
class Rows(torch.utils.data.Dataset):
    def __init__(self): self.store = FeatureStore.open({str(published)!r}); self.store.read({GAP.name!r}, [0])
    def __len__(self): return self.store.num_rows
    def __getitem__(self, i): return self.store.read({GAP.name!r}, [i])[0]
    def __getitems__(self, rows): return list(self.store.read({GAP.name!r}, rows))
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Rows(), 16, num_workers=2, multiprocessing_context={method!r})
    found = torch.cat(list(loader)).numpy()
    assert (found == FeatureStore.open({str(published)!r}).read({GAP.name!r}, slice(None))).all()
"""
    script = published.parent / "loader.py"
    script.write_text(code)
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)


@pytest.mark.parametrize(
    ("row_shape", "dtype", "fill"),
    [
        ((6,), "float16", float("nan")),
        ((2, 3), "float32", float("nan")),
        ((16,), "uint8", 0),
        ((), "int32", 0),
    ],
)
@pytest.mark.parametrize("num_rows", [1, 4, 7, 16])
def test_shards_are_the_bytes_that_zarr_writes(
    tmp_path: Path, row_shape: tuple[int, ...], dtype: str, fill: float, num_rows: int
) -> None:
    values = (np.random.default_rng(0).standard_normal((num_rows, *row_shape)) * 100).astype(dtype)
    zarr.create_array(
        str(tmp_path / "array"),
        data=values,
        shards=(16, *row_shape),
        chunks=(4, *row_shape),
        compressors=[Crc32cCodec()],
        fill_value=fill,
        config={"write_empty_chunks": True},
    )
    layout = ArrayLayout("array", row_shape, dtype, 16, 4, fill)
    assert encode_shard(layout, values) == (tmp_path / layout.shard_path(0)).read_bytes()
    assert encode_metadata(layout, num_rows) == (tmp_path / layout.metadata_path).read_bytes()


def test_a_file_written_in_parts_by_threads_has_their_bytes_and_their_checksum(tmp_path: Path) -> None:
    parts = [np.random.default_rng(i).bytes(3 << 20) for i in range(9)]
    buffers = [bytearray(3 << 20) for _ in range(NUM_HELD + 1)]

    def again() -> Iterator[memoryview]:
        for i, part in enumerate(parts):  # buffers are used again, as shards are made
            buffers[i % len(buffers)][:] = part
            yield memoryview(buffers[i % len(buffers)])

    record = write_file(tmp_path / "file", again())
    assert (tmp_path / "file").read_bytes() == b"".join(parts)
    assert record == FileRecord(27 << 20, xxhash.xxh3_128_hexdigest(b"".join(parts)))
    assert record == record_of_file(tmp_path / "file")


def test_a_shard_that_growth_replaced_is_not_kept_open(grower: Grower) -> None:
    group = grower.grow(NAMES[:20])
    age(group.path)
    FeatureStore.open(group.path).read(GAP.name, slice(None))
    assert open_again(group.path) == set(), "the mapped shard is the one that stands there"
    group = grower.grow(NAMES[:40])
    assert open_again(group.path) == set()


def open_again(root: Path) -> set[str]:
    """Files below a folder that this process maps though they were deleted or replaced."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if str(root) in line and line.endswith("(deleted)")}
