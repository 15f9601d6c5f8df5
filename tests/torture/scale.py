"""Plan a job of many rows with the real planner, write its ledger, and read it back as a resumed run does.

    python tests/torture/scale.py [--quick] [--rows 100000000]

No features are computed or written: files are named with sizes and checksums that stand for them. Publishing and
recovery of files are not part of it. The last line is one JSON object: seconds of each, bytes of the ledger, peak
memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from embedpipe.spec import TapSpec
from embedpipe.store.disk import FileRecord
from embedpipe.store.gates import BlockStatistics
from embedpipe.store.holes import Holes
from embedpipe.store.layout import new_taps
from embedpipe.store.ledger import Entry, LedgerState, TapChange, append_entry, read_ledger
from embedpipe.store.plan import GrowthPlan, plan_growth

WIDTH = 512


def entry_of(plan: GrowthPlan, index: int) -> Entry:
    """What committing one block of a plan writes: the block's shard of each tap, and its statistics."""
    block = plan.blocks[index]
    changes, files = [], {}
    for tap in plan.taps:
        after = dataclasses.replace(tap, num_rows=block.stop)
        statistics = BlockStatistics(1024, 22.6, 0.7, 0, WIDTH)
        changes.append(TapChange(after, block.start, block.stop, Holes.empty(), statistics))
        path = f"{tap.name}/c/{block.start // tap.shard_rows}/0"
        files[path] = FileRecord(block.num_rows * tap.row_nbytes, f"{index:032x}")
    return Entry(index, "block", block.stop, tuple(changes), files)


def simulate(num_rows: int, folder: Path) -> dict[str, float]:
    """Seconds and bytes of planning, of the ledger and of reading it back."""
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 256, size=(num_rows, 16), dtype=np.uint8)
    wanted = {TapSpec(node, "gap", "float16"): (WIDTH,) for node in ("layer3", "layer4")}
    taps = list(new_taps(wanted, []).values())
    began = time.perf_counter()
    plan = plan_growth(taps, np.zeros((0, 16), np.uint8), np.zeros(0, np.int32), keys)
    planned = time.perf_counter()
    assert plan.num_rows_to_compute == num_rows
    path = folder / "ledger.jsonl"
    for index in range(len(plan.blocks)):
        append_entry(path, entry_of(plan, index))
    written = time.perf_counter()
    entries, nbytes = read_ledger(path)
    state = LedgerState().after(entries)
    resumed = time.perf_counter()
    assert state.num_rows == num_rows and len(state.files) == 2 * len(plan.blocks)
    return {
        "rows": num_rows,
        "blocks": len(plan.blocks),
        "plan_s": round(planned - began, 3),
        "ledger_s": round(written - planned, 3),
        "ledger_nbytes": nbytes,
        "resume_s": round(resumed - written, 3),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--quick", action="store_true", help="a million rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(simulate(1_000_000 if arguments.quick else arguments.rows, Path(scratch))))
