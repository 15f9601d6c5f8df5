"""How fast the feature store reads and writes, against a plain NumPy file of the same data.

    python benchmarks/store.py [--rows 200000] [--columns 2048] [--rounds 7] [--folder DIR] [--quick] [--save]
                               [--only sequential|random|epoch|memory|write]

Everything is warm: the data lie in the page cache, and before something is written the disk has settled and the
memory that will hold it was touched (a virtual machine's host takes its time to give it). Each figure is the median,
over alternating rounds, of the NumPy file's time divided by the store's: 1 is as fast, 2 twice as fast. Each round
reads the same rows by both, in an order that changes from round to round.

    sequential_ratio              all rows in blocks of 4,096 into one buffer, checked before
    sequential_first_touch_ratio  the same, every checksum compared on the way
    random256_ratio               256 random rows a call
    shuffled_epoch_ratio          one epoch of a global shuffle, 1,024 rows a batch, through `Features.batches`
    write_ratio                   committing rows, against `numpy.save` and fsync
    write_and_publish_ratio       the same with publishing, which computes the MD5 that DVC names files by
    peak_rss_growth               peak memory of a process that streams a store of all rows in blocks, against one
                                  that streams a store of a tenth of them, each with the manifest of its own rows;
                                  `_shuffled`: in shuffled batches of 1,024
    zarr_ratio                    the same reads through zarr-python

`others_share` is what others than this process took of all cores meanwhile, the kernel's writing back included; up to
10 % the run counts as quiet. A round of writing in which they took more is measured again, if rounds are left of
twice those asked for.

Ends with one JSON object of named figures; `--save` also writes it to benchmarks/results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.features.features import Features
from embedpipe.manifest.table import Manifest
from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store import FeatureStore, open_group, publish, shards

TAP = TapSpec("layer4", "gap")
SPEC = BackboneSpec("benchmark", "0" * 32, "none", "{}", "float32", "cpu")
BLOCK_ROWS = 4096
STREAM_NBYTES = 64 << 20
QUIET_SHARE = 0.1
"""What the kernel does for us, writing pages back, is among what is not ours."""
TARGETS = {
    "sequential_ratio": 0.8,
    "random256_ratio": 0.4,
    "shuffled_epoch_ratio": 0.5,
    "write_ratio": 0.6,
    "peak_rss_growth": 1.1,
}


def make_blocks(rows: int, columns: int) -> Iterator[np.ndarray]:
    """Normal values, float16, 4,096 rows at a time."""
    for start in range(0, rows, BLOCK_ROWS):
        rng = np.random.default_rng(start)
        yield rng.standard_normal((min(BLOCK_ROWS, rows - start), columns), np.float32).astype(np.float16)


def in_order(blocks: Iterator[np.ndarray]) -> Callable[[int, int], np.ndarray]:
    """Rows out of blocks that are made as they are asked for."""
    held, first = np.zeros((0, 0), np.float16), 0

    def read(start: int, stop: int) -> np.ndarray:
        nonlocal held, first
        while first + len(held) < stop:
            block = next(blocks)
            held, first = np.concatenate([held[start - first :].reshape(-1, block.shape[1]), block]), start
        return held[start - first : stop - first]

    return read


def keys_of(rows: int) -> np.ndarray:
    """One key a row."""
    keys = b"".join(hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(rows))
    return np.frombuffer(keys, np.uint8).reshape(-1, 16)


def write_store(folder: Path, read: Callable[[int, int], np.ndarray], keys: np.ndarray, columns: int) -> Path:
    """Commit rows, `read` in order, to a new working group, as extraction does; returns its folder."""
    group = open_group(folder, SPEC)
    with group.lock():
        group.recover()
        group.ensure_taps({TAP: (columns,)})
        plan = group.plan(keys)
        for block in plan.blocks:
            with group.writer(plan, block, batch=1024) as writer:
                for segment in block.segments:
                    for start in range(0, len(segment.rows), 1024):
                        some = segment.rows[start : start + 1024]
                        values = {TAP.name: read(int(some[0]), int(some[-1]) + 1)}
                        writer.append(some, values, handed_over=True)
                writer.commit()
    return group.path


def write_numpy(path: Path, values: np.ndarray) -> None:
    """`numpy.save` and fsync."""
    with path.open("wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())


def manifest_of(rows: int, keys: np.ndarray) -> Manifest:
    """Samples whose ids are in the order of the rows."""
    names = [f"{i:09d}" for i in range(rows)]
    return Manifest.from_rows(
        "rows", {}, "array", sample_ids=names, keys=[key.tobytes() for key in keys], domain="target",
        groups=names, splits=["train"] * rows, locators=names,
    )  # fmt: skip


def cpu_seconds() -> tuple[float, float, float]:
    """Now; what all processes took of the cores since the machine started; what this one and its children took."""
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    busy = (user + nice + system + irq + softirq + steal) / ticks
    return time.monotonic(), busy, sum(os.times()[:4])


def others_share(before: tuple[float, float, float]) -> float:
    """Share of all cores that other processes took since then."""
    elapsed, busy, own = (now - then for now, then in zip(cpu_seconds(), before, strict=True))
    return max(0.0, (busy - own) / (elapsed * (os.cpu_count() or 1)))


def settle(nbytes: int) -> None:
    """Let the disk finish what is due, and the host back the memory that is to be written to."""
    os.sync()
    np.ones(nbytes, np.uint8)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(rounds: int, runs: dict[str, Callable[[int], object]]) -> dict[str, list[float]]:
    """Seconds of each run in each round; who begins changes from round to round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        names = list(runs)[:: 1 if i % 2 else -1]
        for name in names:
            times[name].append(seconds(partial(runs[name], i)))
    return times


def ratio(times: dict[str, list[float]], name: str, base: str = "memmap") -> float:
    """Median over rounds of the base's time divided by this one's."""
    return statistics.median(b / a for a, b in zip(times[name], times[base], strict=True))


def measure_sequential(flat: np.ndarray, store: FeatureStore, array: Any, rounds: int) -> dict[str, Any]:
    buffer = np.empty((BLOCK_ROWS, flat.shape[1]), np.float16)
    starts = range(0, len(flat) - BLOCK_ROWS + 1, BLOCK_ROWS)

    def by_memmap(_: int) -> None:
        for i in starts:
            np.copyto(buffer, flat[i : i + BLOCK_ROWS])

    def by_store(_: int) -> None:
        for i in starts:
            store.read(TAP.name, slice(i, i + BLOCK_ROWS), buffer)

    def first_touch(_: int) -> None:
        shards.forget()
        by_store(0)

    def by_zarr(_: int) -> None:
        for i in starts:
            buffer[...] = array[i : i + BLOCK_ROWS]

    by_memmap(0)
    by_store(0)
    verified = alternate(rounds, {"memmap": by_memmap, "store": by_store})
    touched = alternate(rounds, {"memmap": by_memmap, "store": first_touch})
    zarred = alternate(min(3, rounds), {"memmap": by_memmap, "zarr": by_zarr})
    nbytes = len(starts) * buffer.nbytes
    return {
        "sequential_ratio": ratio(verified, "store"),
        "sequential_first_touch_ratio": ratio(touched, "store"),
        "zarr_sequential": ratio(zarred, "zarr"),
        "memmap_sequential_gb_s": nbytes / statistics.median(verified["memmap"]) / 1e9,
        "store_sequential_gb_s": nbytes / statistics.median(verified["store"]) / 1e9,
    }


def measure_random(flat: np.ndarray, store: FeatureStore, array: Any, rounds: int) -> dict[str, Any]:
    def calls(seed: int, num: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, len(flat), (num, 256))

    def by_memmap(seed: int, num: int = 40) -> None:
        for rows in calls(seed, num):
            flat[rows]

    def by_store(seed: int, num: int = 40) -> None:
        for rows in calls(seed, num):
            store.read(TAP.name, rows)

    def by_zarr(seed: int) -> None:
        for rows in calls(seed, 1):
            array.oindex[rows]

    times = alternate(rounds, {"memmap": by_memmap, "store": by_store})
    zarred = alternate(min(3, rounds), {"memmap": lambda seed: by_memmap(seed, 1), "zarr": by_zarr})
    return {
        "random256_ratio": ratio(times, "store"),
        "zarr_random256": ratio(zarred, "zarr"),
        "memmap_random256_ms": statistics.median(times["memmap"]) / 40 * 1e3,
        "store_random256_ms": statistics.median(times["store"]) / 40 * 1e3,
    }


def measure_epoch(flat: np.ndarray, features: Features, rounds: int) -> dict[str, Any]:
    def by_memmap(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(flat))
        for i in range(0, len(order), 1024):
            flat[order[i : i + 1024]]

    def by_features(seed: int) -> None:
        for _ in features.batches(1024, shuffle="global", seed=seed):
            pass

    times = alternate(rounds, {"memmap": by_memmap, "features": by_features})
    return {
        "shuffled_epoch_ratio": ratio(times, "features"),
        "shuffled_epoch_s": statistics.median(times["features"]),
    }


def measure_write(folder: Path, columns: int, rows: int, rounds: int) -> dict[str, Any]:
    values, keys = np.concatenate(list(make_blocks(rows, columns))), keys_of(rows)

    def by_numpy(i: int) -> None:
        write_numpy(folder / f"write-{i}.npy", values)

    def by_store(i: int) -> None:
        write_store(folder / f"write-{i}", lambda start, stop: values[start:stop], keys, columns)

    by_store(0)  # imports zarr
    shutil.rmtree(folder / "write-0")
    times: dict[str, list[float]] = {"memmap": [], "store": [], "published": []}
    for i in range(2 * rounds):
        if len(times["store"]) == rounds:
            break
        runs: dict[str, Callable[[int], object]] = {"memmap": by_numpy, "store": by_store}
        one: dict[str, float] = {}
        shares = []
        for name in runs if i % 2 else reversed(runs):
            settle(2 * values.nbytes)
            before = cpu_seconds()
            one[name] = seconds(partial(runs[name], 0))
            shares.append(others_share(before))
        group = open_group(folder / "write-0", SPEC)
        publishing = seconds(partial(publish, group, [TAP.name], folder / "write-published"))
        one["published"] = one["store"] + publishing
        if max(shares) <= QUIET_SHARE or i >= rounds + len(times["store"]):
            times = {name: [*times[name], one[name]] for name in times}
        shutil.rmtree(folder / "write-0")
        shutil.rmtree(folder / "write-published")
        (folder / "write-0.npy").unlink()
    return {
        "write_ratio": ratio(times, "store"),
        "write_and_publish_ratio": ratio(times, "published"),
        "write_rows": rows,
        "store_write_mb_s": values.nbytes / statistics.median(times["store"]) / 1e6,
        "numpy_write_mb_s": values.nbytes / statistics.median(times["memmap"]) / 1e6,
    }


def measure_memory(folder: Path, rows: int, columns: int) -> dict[str, Any]:
    num, peaks = rows // 10, {"blocks": [0.0, 0.0], "shuffled": [0.0, 0.0]}
    keys = keys_of(rows)
    write_store(folder / "tenth", in_order(make_blocks(num, columns)), keys[:num], columns)
    publish(open_group(folder / "tenth", SPEC), [TAP.name], folder / "published-tenth")
    for i, (published, some) in enumerate((("published-tenth", keys[:num]), ("published", keys))):
        manifest = folder / f"{published}.parquet"
        manifest_of(len(some), some).write(manifest)
        for kind, found in peaks.items():
            command = [sys.executable, __file__, "--stream", kind, str(folder / published), str(manifest)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[i] = int(done.stdout) / 1e6
    return {
        "peak_rss_growth": peaks["blocks"][1] / peaks["blocks"][0],
        "peak_rss_growth_shuffled": peaks["shuffled"][1] / peaks["shuffled"][0],
        "peak_rss_mb": peaks,
    }


def stream(kind: str, published: str, manifest: str) -> None:
    """Read the rows of a manifest in blocks or in shuffled batches; print this process's peak memory in bytes."""
    features = Features.of(
        Manifest.read(Path(manifest)),
        [(published, TAP.name)],
        dtype=None,
        memory_nbytes=0,
        mapped_nbytes=STREAM_NBYTES,
    )
    for batch in features.batches(1024, shuffle=True) if kind == "shuffled" else features.block_iter():
        assert np.isfinite(batch.X[0, 0])
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024)  # type: ignore[union-attr]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu.group(1).strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "zarr", "google-crc32c", "embedpipe")},
    }


def measure(folder: Path, rows: int, columns: int, rounds: int, only: str | None = None) -> dict[str, Any]:
    print(f"writing {rows} rows of {columns} float16 twice below {folder}", flush=True)
    flat_file = np.lib.format.open_memmap(folder / "flat.npy", "w+", np.float16, (rows, columns))
    for i, block in enumerate(make_blocks(rows, columns)):
        flat_file[i * BLOCK_ROWS : i * BLOCK_ROWS + len(block)] = block
    flat_file.flush()
    del flat_file
    keys = keys_of(rows)
    write_store(folder / "stores", in_order(make_blocks(rows, columns)), keys, columns)
    publish(open_group(folder / "stores", SPEC), [TAP.name], folder / "published")
    flat = np.load(folder / "flat.npy", mmap_mode="r")
    store = FeatureStore.open(folder / "published")
    array = _zarr_array(folder / "published")
    sample = np.random.default_rng(0).integers(0, rows, 1000)
    assert np.array_equal(store.read(TAP.name, sample), flat[sample]), "the two do not hold the same rows"
    found: dict[str, Any] = {}
    shares: dict[str, float] = {}
    for name, part in {
        "sequential": lambda: measure_sequential(flat, store, array, rounds),
        "random": lambda: measure_random(flat, store, array, rounds),
        "epoch": lambda: measure_epoch(
            flat,
            Features.of(
                manifest_of(rows, keys), [(store, TAP.name)], dtype=None, memory_nbytes=flat.nbytes - 1
            ),
            rounds,
        ),
        "memory": lambda: measure_memory(folder, rows, columns),
        "write": lambda: measure_write(folder, columns, rows, rounds),
    }.items():
        if only and name != only:
            continue
        before = cpu_seconds()
        found |= part()
        shares[name] = others_share(before)
        print(name, {key: _rounded(value) for key, value in found.items()}, flush=True)
    zarred = {
        name: found.pop(f"zarr_{name}") for name in ("sequential", "random256") if f"zarr_{name}" in found
    }
    return {
        **found,
        "zarr_ratio": zarred,
        "others_share": shares,
        "quiet": max(shares.values()) <= QUIET_SHARE,
    }


def _zarr_array(published: Path) -> Any:
    import zarr

    return zarr.open_group(str(published), mode="r")[TAP.name]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7, help="alternations a figure is the median of")
    parser.add_argument("--quick", action="store_true", help="small sizes, which only prove that it runs")
    parser.add_argument("--folder", type=Path, help="where to make the files; default: a temporary folder")
    parser.add_argument("--only", help="sequential, random, epoch, memory or write; nothing is saved")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results too")
    parser.add_argument("--stream", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream is not None:
        stream(*options.stream)
        return
    if options.quick:
        options.rows, options.columns, options.rounds = 20_000, 256, 3
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="embedpipe-store-") as folder:
        found = measure(Path(folder), options.rows, options.columns, options.rounds, options.only)
    about = {
        **_rounded(found),
        "rows": options.rows,
        "columns": options.columns,
        "rounds": options.rounds,
        "targets": TARGETS,
        "machine": machine(),
    }
    if options.save and not options.only:
        name = re.sub(r"[^a-z0-9]+", "-", about["machine"]["cpu"].lower()).strip("-")
        out = Path(__file__).parent / "results" / f"store-{name}-{os.cpu_count()}-cores.json"
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(about, indent=4) + "\n")
    print(json.dumps(about))


if __name__ == "__main__":
    main()
