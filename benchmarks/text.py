"""How much faster texts are embedded than by the loop one writes first, and whether they come out the same.

    python benchmarks/text.py --model FOLDER --table TABLE.tsv [--column SMS] [--num N] [--batch 32] [--repeats 3]

FOLDER holds a text encoder as save_pretrained writes it, TABLE its texts. Both ways keep every hidden state's
mean over tokens. The loop: float32, batches padded to their longest, in the given order, `output_hidden_states`,
`numpy.save`. Times of extraction are of the whole command (manifest, tokens, probe, embedding, commit, publishing) less
that of a run with nothing to do. Alternated and repeated in one process; the medians count.

vs_naive           texts/s of extraction as it stands (precision auto) / of the loop
vs_naive_float32   the same with extraction in float32
padding            tokens computed / tokens of the texts, in extraction
naive_padding      the same in the loop
max_error_float32  largest relative L2 of a text's features in float32 against the loop's
max_error          the same with precision auto

Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedpipe.backbones.staging import Staging
from embedpipe.extract.probe import relative_error
from embedpipe.features.features import Features
from embedpipe.manifest.table import Manifest
from embedpipe.sources.base import open_source
from embedpipe.steps.extract import extract_features
from embedpipe.steps.ingest import ingest_dataset
from embedpipe.workspace import Workspace

DATASET = "texts"


def make_project(root: Path, model: Path, table: Path, column: str, batch: int, precision: str) -> Workspace:
    """A project over the table."""
    root.mkdir(parents=True)
    params: dict[str, Any] = {
        "seed": 0,
        "datasets": {DATASET: {"source": {"kind": "table", "path": str(table), "text": column}}},
        "backbones": {
            "model": {
                "model": f"transformers:{model}",
                "taps": {"hidden.0": ["mean_tokens"], "blocks": ["mean_tokens"]},
            }
        },
        "extract": {"precision": precision, "dtype": "float32", "batch": batch},
    }
    (root / "params.yaml").write_text(json.dumps(params))
    return Workspace(root, root / ".embedpipe")


def extract(workspace: Workspace) -> float:
    """Seconds of embedding everything, beyond those of a run with nothing to do."""
    shutil.rmtree(workspace.stores_dir, ignore_errors=True)
    shutil.rmtree(workspace.features("model"), ignore_errors=True)
    began = time.perf_counter()
    extract_features(workspace, "model")
    whole = time.perf_counter() - began
    began = time.perf_counter()
    extract_features(workspace, "model")
    return whole - (time.perf_counter() - began)


def loop(model: Path, texts: list[str], batch: int, out: Path) -> tuple[float, np.ndarray, int]:
    """Seconds, features (N, layers, D) and tokens computed of the loop that one writes first."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    encoder = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    rows, num_tokens = [], 0
    began = time.perf_counter()
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            given = tokenizer(
                texts[start : start + batch], padding=True, truncation=True, return_tensors="pt"
            )
            states = torch.stack(encoder(**given, output_hidden_states=True).hidden_states, dim=1)
            mask = given["attention_mask"][:, None, :, None]
            rows.append(((states * mask).sum(2) / mask.sum(2)).numpy())
            num_tokens += given["input_ids"].numel()
    np.save(out, np.concatenate(rows))
    return time.perf_counter() - began, np.concatenate(rows), num_tokens


def stored(workspace: Workspace) -> tuple[list[str], np.ndarray]:
    """Sample ids and features (N, layers, D) of what was published."""
    manifest = Manifest.read(workspace.manifest(DATASET))
    folder = workspace.features("model")
    layers = json.loads((folder / "card.json").read_text())["taps"]
    taps = sorted(layers, key=lambda tap: layers[tap]["depth"])
    found = [Features.of(manifest, [(folder, tap)]) for tap in taps]
    return list(found[0].sample_ids), np.stack([one.numpy() for one in found], axis=1)


def padding(model: Path, texts: list[str], batch: int) -> float:
    """Tokens computed in extraction for each token of the distinct texts."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    longest = min(512, tokenizer.model_max_length)
    lengths = [
        len(ids) for ids in tokenizer(sorted(set(texts)), truncation=True, max_length=longest)["input_ids"]
    ]
    staging = Staging.of_texts(longest)
    padded = np.array([staging.padded(length) for length in lengths])
    computed = 0
    for length in np.unique(padded).tolist():
        rows = staging.rows(batch, length)
        computed += -(-int((padded == length).sum()) // rows) * rows * length
    return computed / sum(lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a text encoder")
    parser.add_argument("--table", type=Path, help="table of texts")
    parser.add_argument("--column", default="SMS")
    parser.add_argument("--num", type=int, help="the first so many texts; default: all")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.model is None or options.table is None:
        print(json.dumps({"skipped": "needs --model and --table: no encoder comes with the project"}))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    model, table = options.model.resolve(), options.table.resolve()
    if options.num is not None:
        lines = table.read_text(encoding="utf-8").splitlines(keepends=True)[: options.num + 1]
        table = folder / f"some{table.suffix}"
        table.write_text("".join(lines), encoding="utf-8")
    projects = {
        precision: make_project(folder / precision, model, table, options.column, options.batch, precision)
        for precision in ("auto", "float32")
    }
    for workspace in projects.values():
        ingest_dataset(workspace, DATASET)
    manifest = Manifest.read(projects["auto"].manifest(DATASET))
    source = open_source(manifest.source, projects["auto"].root)
    order = sorted(range(len(manifest)), key=lambda i: int(manifest.locators[i]))  # as the table has them
    texts = [str(source.read(str(manifest.locators[i]))) for i in order]
    seconds: dict[str, list[float]] = {"auto": [], "float32": [], "naive": []}
    for _ in range(options.repeats):
        for precision, workspace in projects.items():
            seconds[precision].append(extract(workspace))
        taken, naive, num_tokens = loop(model, texts, options.batch, folder / "naive.npy")
        seconds["naive"].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    by_id = np.empty_like(naive)
    by_id[order] = naive
    errors = {}
    for precision, workspace in projects.items():
        _, found = stored(workspace)
        errors[precision] = max(relative_error(by_id[:, i], found[:, i]) for i in range(found.shape[1]))
    own_tokens = sum(len(ids) for ids in _ids(model, texts))
    return {
        "vs_naive": round(medians["naive"] / medians["auto"], 4),
        "vs_naive_float32": round(medians["naive"] / medians["float32"], 4),
        "texts_per_s": {name: round(len(texts) / value, 1) for name, value in medians.items()},
        "padding": round(padding(model, texts, options.batch), 4),
        "naive_padding": round(num_tokens / own_tokens, 4),
        "max_error": float(f"{errors['auto']:.2g}"),
        "max_error_float32": float(f"{errors['float32']:.2g}"),
        "num_texts": len(texts),
        "num_distinct": len(set(texts)),
        "precision": json.loads((projects["auto"].features("model") / "card.json").read_text())["spec"][
            "precision"
        ],
        "repeats": options.repeats,
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "load_1min": round(os.getloadavg()[0], 1),
        },
    }


def _ids(model: Path, texts: list[str]) -> list[list[int]]:
    import transformers

    ids: list[list[int]] = transformers.AutoTokenizer.from_pretrained(model)(texts, truncation=True)[
        "input_ids"
    ]
    return ids


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
