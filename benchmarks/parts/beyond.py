"""What one more head costs beside an extraction, and memory where features do not fit it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from parts.features import Figures, Rows, by_turns

WIDTH = 512
"""Features of ResNet-18's last block."""
HALVES = (256, 256)
"""Two taps side by side."""
# small and stopped early, since passes and not their number decide how much is held
GRIDS: dict[str, list[dict[str, object]]] = {
    "ridge": [{"alpha": alpha} for alpha in (1.0, 100.0, 1e4)],
    "lda": [{"shrinkage": one} for one in (0.1, 0.5)],
    "centroid": [{"metric": "cosine"}],
    "logistic": [{"C": C, "tol": 1e-2} for C in (1e-3, 1e-2)],
    "svm": [{"C": C, "tol": 1e-2} for C in (1e-4, 1e-3)],
    "sgd": [{"lr": lr, "epochs": 1} for lr in (1e-3, 1e-2)],
    "mlp": [{"hidden": 64, "epochs": 1}],
    "conv": [{"hidden": 8, "epochs": 1}],
    "attentive": [{"queries": 2, "width": 8, "epochs": 1}],
    "layerwise": [{"widths": HALVES, "fusion": one, "epochs": 1} for one in ("mixture", "attention")],
    "group_lasso": [{"widths": HALVES, "strength": one, "max_iter": 3} for one in (0.1, 0.3)],
    "greedy": [{"widths": HALVES}],
    "knn": [{"k": 5}, {"k": 20}],
}
SHAPES = {"maps": (32, 4, 4), "tokens": (16, 32)}
"""What a row of `WIDTH` columns is seen as, by families of maps and of tokens."""


def marginal(rows: Rows, num: int, repeats: int) -> Figures:
    """One more logistic head on as many samples as were extracted by ResNet-18 at 224 px.

    The forward pass alone counts as extraction: reading and decoding come on top of it.
    """
    import torch
    import torchvision

    from embedpipe.heads.registry import fit_grid

    X, codes = rows.make(num, WIDTH)
    model = torchvision.models.resnet18(weights=None).eval().to(memory_format=torch.channels_last)
    images = torch.rand(32, 3, 224, 224).to(memory_format=torch.channels_last)
    sampled = 4

    def extract() -> None:
        with torch.inference_mode():
            for _ in range(sampled):
                model(images)

    def head() -> None:
        fit_grid("logistic", [{"C": 0.1}], X, codes, kind="classes", seed=0)

    def closed_form() -> None:
        fit_grid("ridge", [{"alpha": 10.0}], X, codes, kind="classes", seed=0)

    extraction, one, ridge = by_turns(repeats, extract, head, closed_form)
    whole = extraction / (sampled * len(images)) * num
    return {
        "marginal_head_cost": one / whole,
        "marginal_ridge_cost": ridge / whole,
        "marginal_head_seconds": one,
        "marginal_about": f"{num} samples of {WIDTH} features; extraction timed on {sampled * len(images)} images",
    }


def peak(rows: Rows, num: int, repeats: int) -> Figures:
    """Memory that fitting each family and predicting 4,096 rows adds, from a store four times larger than allowed."""
    num = max(num * 24, 4096)
    allowed = num * WIDTH * 2 // 4  # two bytes a feature, as stored
    figures: Figures = {
        "peak_allowed_mb": allowed / 1e6,
        "peak_about": f"{num} rows of {WIDTH} float16 features, {num * WIDTH * 2 / 1e6:.0f} MB",
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_store(rows, num, root)
        grown = []
        for family, inputs in families().items():
            result = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    CHILD,
                    str(root),
                    family,
                    json.dumps(GRIDS.get(family, [{}])),
                    str(allowed),
                    json.dumps(SHAPES.get(inputs)),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode != 0:
                raise RuntimeError(f"{family}: {result.stderr[-2000:]}")
            found = json.loads(result.stdout.splitlines()[-1])
            figures[f"peak_{family}"] = found
            grown.append(found["grown_mb"])
    return {"peak_rss": max(grown) / (allowed / 1e6), **figures}


def families() -> dict[str, str]:
    """Every family that learns classes, and what it learns them from."""
    from embedpipe.heads.registry import FAMILIES

    return {name: one.inputs for name, one in FAMILIES.items() if "classes" in one.heads}


def write_store(rows: Rows, num: int, root: Path) -> None:
    """A published store of made features, block by block, with codes beside it."""
    from embedpipe.spec import BackboneSpec, TapSpec
    from embedpipe.store import open_group, publish

    tap = TapSpec("layer4", "gap")
    keys = np.stack(
        [np.frombuffer(hashlib.blake2b(b"%d" % i, digest_size=16).digest(), np.uint8) for i in range(num)]
    )
    group = open_group(root / "stores", BackboneSpec("made", "a" * 32, "none", "{}", "float32", "cpu"))
    codes = np.zeros(num, np.int64)
    with group.lock():
        group.recover()
        group.ensure_taps({tap: (WIDTH,)})
        plan = group.plan(keys)
        for block in plan.blocks:
            with group.writer(plan, block, batch=4096) as writer:
                for segment in block.segments:
                    wanted = plan.wanted_of_row[segment.rows]
                    for at in range(0, len(wanted), 4096):
                        some = slice(at, at + 4096)
                        X, y = rows.make(len(wanted[some]), WIDTH, seed=int(wanted[at]))
                        codes[wanted[some]] = y
                        writer.append(list(segment.rows[some]), {tap.name: X.astype(np.float16)}, {})
                writer.commit()
    publish(group, [tap.name], root / "features", {})
    np.savez(root / "rows.npz", keys=keys, codes=codes)


CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from embedpipe.features.taprows import TapRows
from embedpipe.heads import registry
from embedpipe.heads.beside import ShapedRows
from embedpipe.heads.rows import cut
from embedpipe.store import FeatureStore

root, family, grid, allowed = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
shape = json.loads(sys.argv[5])

def status(name):
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1]) / 1e3

about = np.load(root / "rows.npz")
rows = TapRows.of([(FeatureStore.open(root / "features"), "layer4.gap")], about["keys"], cut=cut,
                  memory_nbytes=0, mapped_nbytes=max(allowed // 4, 16 << 20))
if shape is not None:
    rows = ShapedRows(rows, tuple(shape))
# libraries are loaded and warm before memory is looked at
small = rows.gather(np.arange(256))
fit = dict(kind="classes", seed=0, memory_nbytes=allowed)
for head in registry.fit_grid(family, grid, small, about["codes"][:256], **fit):
    head.predict(small)
before = status("VmRSS")
heads = registry.fit_grid(family, grid, rows, about["codes"], **fit)
asked = rows.gather(np.arange(4096))
for head in heads:
    head.predict(asked)
print(json.dumps({"grown_mb": round(status("VmHWM") - before, 1), "before_mb": round(before, 1)}))
"""
