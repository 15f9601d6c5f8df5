"""A job of a hundred million samples without its features: planned, committed, killed, resumed and published for real.

    python tests/torture/scale.py [--quick] [--rows 100000000] [--kills 3] [--folder FOLDER]

Two taps of one float16 each stand for taps of 512: shards and blocks have as many rows as those would, so there are
as many commits, ledger lines, files and links, and everything but the bytes of features is as in the real job: the
manifest is read, keys are joined, journals spooled, shards assembled, commits made durable, by the code that
extraction runs. Each phase is a process of its own, whose peak memory is read when it ends; the one that fills the
store is killed at random instants and started again.

plan     read the keys of the manifest and plan, with nothing stored
fill     plan, then commit every block; killed `--kills` times
recover  of each restart: open the group, finish or drop what the kill left
resume   open, recover, read the keys, plan: all is there, nothing is left to do
publish  MD5 of all files, hard links, store.json
again    publish once more, as a run with nothing new does

The last line is one JSON object: seconds and peak memory of each, bytes of the ledger, bytes written in all.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROW_NBYTES = 1024  # of the taps that are stood for: 512 numbers in float16
MANIFEST, STORES, FEATURES = "samples.parquet", "stores", "features"
FIGURES = "figures.jsonl"


def make_manifest(path: Path, num_rows: int) -> None:
    """Random keys, ids and locators as a data set of web images has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from embedpipe.manifest.table import MANIFEST_VERSION, SCHEMA

    about = {
        "format_version": MANIFEST_VERSION, "dataset": "simulated", "modality": "image",
        "source": {"kind": "folder", "path": "images"},
    }  # fmt: skip
    schema = SCHEMA.with_metadata({"embedpipe.manifest": json.dumps(about)})
    generator = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, num_rows, 1 << 20):
            num = min(1 << 20, num_rows - start)
            texts = [f"{i:010d}" for i in range(start, start + num)]
            keys = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), num, [None, pa.py_buffer(generator.bytes(16 * num))]
            )
            same = [
                pa.array([value]).take(pa.array(np.zeros(num, np.int64))) for value in ("target", "train")
            ]
            ids = pa.array(texts)
            locators = pa.array([f"{text[:4]}/{text[4:7]}/{text}.jpg" for text in texts])
            writer.write_table(
                pa.Table.from_arrays([ids, keys, same[0], ids, same[1], locators], schema=schema),
                row_group_size=1 << 20,
            )


class Clock:
    """Seconds of each step, written down as they end: a killed process keeps those before."""

    def __init__(self, folder: Path, phase: str) -> None:
        self._folder, self._phase, self._began = folder, phase, time.perf_counter()

    def note(self, step: str, **more: Any) -> None:
        seconds = time.perf_counter() - self._began
        figures = {"phase": self._phase, "step": step, "seconds": seconds, "peak_gb": peak_gb(), **more}
        with (self._folder / FIGURES).open("a") as file:
            file.write(json.dumps(figures) + "\n")
        self._began = time.perf_counter()


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def written_nbytes() -> int:
    """Bytes that this process has sent to the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))


def run_phase(folder: Path, phase: str) -> None:
    from embedpipe.extract.samples import gather
    from embedpipe.manifest.listed import ListedSamples
    from embedpipe.spec import BackboneSpec, TapSpec
    from embedpipe.store.group import open_group
    from embedpipe.store.layout import SHARD_NBYTES
    from embedpipe.store.publishing import publish

    clock = Clock(folder, phase)
    spec = BackboneSpec("simulated", "0" * 32, "none", "{}", "float32", "cpu")
    taps = {TapSpec(node, "gap", "float16"): (1,) for node in ("layer3", "layer4")}
    shard_nbytes = SHARD_NBYTES // ROW_NBYTES * 2
    group = open_group(folder / STORES, spec)
    with group.lock(wait_s=30.0):
        done = group.recover()
        group.ensure_taps(taps, shard_nbytes=shard_nbytes, block_nbytes=2 * shard_nbytes)
        clock.note("recover", rolled_forward=done.rolled_forward, entries=group.state.num_entries)
        if phase in ("publish", "again"):
            publish(group, list(group.taps), folder / FEATURES)
            clock.note("publish", files=len(group.state.files))
            return
        listed = ListedSamples.open(folder / MANIFEST)
        wanted = gather([(listed, None)], "simulated", "image")  # type: ignore[list-item]
        clock.note("keys")
        plan = group.plan(wanted.keys)
        clock.note("plan", blocks=len(plan.blocks), to_compute=plan.num_rows_to_compute)
        if phase != "fill":
            return
        generator = np.random.default_rng(1)
        for block in plan.blocks:
            with group.writer(plan, block, batch=1 << 16) as writer:
                for index, segment in enumerate(block.segments):
                    rows = segment.rows[writer.done(index) :]
                    values = generator.standard_normal((len(rows), 1), np.float32)
                    writer.append(rows, {name: values for name in segment.taps})
                writer.commit()
            (folder / "committed").write_text(str(block.stop))
        clock.note("commit", written_nbytes=written_nbytes())


def start(folder: Path, phase: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--folder", str(folder), "--phase", phase])


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"a phase has failed with exit code {process.returncode}")


def simulate(num_rows: int, num_kills: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Run every phase and gather the figures."""
    make_manifest(folder / MANIFEST, num_rows)
    finish(start(folder, "plan"))
    kills, instants = 0, random.Random(seed)
    for kill in range(num_kills):
        process = start(folder, "fill")
        goal = num_rows * (kill + instants.random()) / (num_kills + 1)
        while process.poll() is None and _committed(folder) < goal:
            time.sleep(0.01)
        time.sleep(0.05 * instants.random())
        kills += process.poll() is None
        process.kill()
        process.wait()
    for phase in ("fill", "resume", "publish", "again"):
        finish(start(folder, phase))
    figures = [json.loads(line) for line in (folder / FIGURES).read_text().splitlines()]
    (ledger,) = (folder / STORES).glob("*/ledger.jsonl")
    last = {(f["phase"], f["step"]): f for f in figures}
    assert last["plan", "plan"]["to_compute"] == num_rows
    assert last["resume", "plan"]["to_compute"] == 0
    recoveries = [f for f in figures if f["phase"] == "fill" and f["step"] == "recover"]
    resume_s = sum(last["resume", step]["seconds"] for step in ("recover", "keys", "plan"))
    commit = last["fill", "commit"]
    result = {
        "rows": num_rows,
        "blocks": last["plan", "plan"]["blocks"],
        "files": last["publish", "publish"]["files"],
        "keys_s": last["plan", "keys"]["seconds"],
        "plan_s": last["plan", "plan"]["seconds"],
        "plan_peak_gb": last["plan", "plan"]["peak_gb"],
        "kills": kills,
        "rolled_forward": sum(f["rolled_forward"] for f in recoveries),
        "recover_s": max(f["seconds"] for f in recoveries),
        "commit_s": commit["seconds"],
        "commit_peak_gb": commit["peak_gb"],
        "resume_s": resume_s,
        "resume_peak_gb": last["resume", "plan"]["peak_gb"],
        "publish_s": last["publish", "publish"]["seconds"],
        "publish_peak_gb": last["publish", "publish"]["peak_gb"],
        "publish_again_s": last["again", "publish"]["seconds"],
        "ledger_nbytes": ledger.stat().st_size,
        "keys_and_metadata_nbytes": _written(ledger),
        "manifest_nbytes": (folder / MANIFEST).stat().st_size,
    }
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}


def _committed(folder: Path) -> int:
    try:
        return int((folder / "committed").read_text() or 0)
    except FileNotFoundError:
        return 0


def _written(ledger: Path) -> int:
    """Bytes of all that commits have written beside features, rewritten files each time: keys, parts, metadata, and
    the ledger's lines twice, once in an intent."""
    total = 2 * ledger.stat().st_size
    with ledger.open() as file:
        for line in file:
            for path, record in json.loads(line)["entry"]["files"].items():
                if path.startswith(("keys/", "part/")) or path.endswith("zarr.json"):
                    total += record["nbytes"]
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--quick", action="store_true", help="a million rows")
    parser.add_argument("--kills", type=int, default=3, help="how often the process that commits is killed")
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder (7 GB)")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        run_phase(arguments.folder, arguments.phase)
    else:
        rows = 1_000_000 if arguments.quick else arguments.rows
        scratch = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            print(json.dumps(simulate(rows, arguments.kills, scratch)))
        finally:
            shutil.rmtree(scratch)
