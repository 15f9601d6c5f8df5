"""How long a no-op `dvc repro` takes on a store of a million rows in 64 MB shards; prints, asserts nothing.

`python noop.py [ROWS]` makes a project in a temporary folder with one stage whose out is a published store of
256 float16 columns, runs the stage once and times the second `dvc repro`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STAGE = """
import sys
from pathlib import Path
import numpy as np
from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store import open_group, publish
rows, columns = int(sys.argv[1]), 256
tap = TapSpec("layer", "gap")
keys = np.zeros((rows, 16), np.uint8)
keys[:, :8] = np.arange(1, rows + 1, dtype=np.uint64)[:, None].view(np.uint8)
group = open_group(Path(".dvc/embedpipe/stores"), BackboneSpec("none", "0" * 32, "none", "{}", "float32", "cpu"))
values = np.random.default_rng(0).standard_normal((4096, columns)).astype(np.float16)
with group.lock():
    group.recover()
    group.ensure_taps({tap: (columns,)})
    plan = group.plan(keys)
    for block in plan.blocks:
        with group.writer(plan, block, batch=4096, sync_every_s=60.0) as writer:
            for index, segment in enumerate(block.segments):
                for start in range(writer.done(index), len(segment.rows), 4096):
                    some = segment.rows[start : start + 4096]
                    writer.append(some, {tap.name: values[: len(some)] * np.float16(1 + block.index / 64)})
            writer.commit()
publish(group, [tap.name], Path("features"))
"""


def main(num_rows: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def run(*command: str) -> None:
            subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)

        dvc = (sys.executable, "-m", "dvc")
        (root / "fill.py").write_text(STAGE)
        command = f"{sys.executable} fill.py {num_rows}"
        stage = {"stages": {"fill": {"cmd": command, "deps": ["fill.py"], "outs": ["features"]}}}
        (root / "dvc.yaml").write_text(json.dumps(stage))
        run("git", "init", "-q")
        run(*dvc, "init", "-q")
        run(*dvc, "config", "cache.type", "hardlink")
        began = time.monotonic()
        run(*dvc, "repro", "-q")
        first_s = time.monotonic() - began
        times = []
        for _ in range(3):
            began = time.monotonic()
            run(*dvc, "repro", "-q")
            times.append(time.monotonic() - began)
        num_files = sum(p.is_file() for p in (root / "features").rglob("*"))
    figures = {"rows": num_rows, "files": num_files, "first_s": first_s, "noop_s": float(np.median(times))}
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
