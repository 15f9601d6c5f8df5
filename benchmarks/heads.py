"""Whole grids of heads in one pass, against loops of single fits.

    python benchmarks/heads.py [--num 20000] [--repeats 3] [--quick] [--only ridge,logistic,...]
        [--store data/features/glyphnet] [--manifest data/manifests/digits/samples.parquet] [--into FILE]

Features are of scikit-learn's digits, embedded by the default run's backbone (`make repro` makes the store), or of
any published store and its manifest. Where a figure needs more rows than there are, the rows are repeated with noise
of a tenth of each column's spread; where it needs more columns, they are mixed into as many by one random matrix and
rectified, which leaves them as correlated as a network's are. Medians over repeats, ours and theirs by turns; a
reference that would take minutes is timed on a sample, which the result names. All of it takes eleven minutes. Ends
with one JSON object of named figures; `--into` adds them to those of a file, so that parts can be run one at a time.
`--quick` runs every part on a tenth of the rows, once: it proves the script, its ratios say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

from parts import beyond, linear, neural
from parts.features import ROOT, Figures, Rows

PARTS: dict[str, Callable[[Rows, int, int], Figures]] = {
    "ridge": linear.ridge,
    "logistic": linear.logistic,
    **neural.PARTS,
    "marginal": beyond.marginal,
    "peak": beyond.peak,
}


def machine() -> dict[str, object]:
    """What it ran on."""
    import sklearn
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
        "load_1min": round(os.getloadavg()[0], 1),
    }


def rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=20_000, help="rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, once")
    parser.add_argument("--store", type=Path, default=ROOT / "data/features/glyphnet")
    parser.add_argument("--manifest", type=Path, default=ROOT / "data/manifests/digits/samples.parquet")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--into", type=Path, help="a JSON file that the figures are added to")
    options = parser.parse_args()
    num, repeats = (options.num // 10, 1) if options.quick else (options.num, options.repeats)
    rows, figures = Rows(options.store, options.manifest), {}
    for name in options.only.split(","):
        figures |= PARTS[name](rows, num, repeats)
        print(
            name, {key: rounded(value) for key, value in figures.items() if key.startswith(name)}, flush=True
        )
    about = {"machine": machine(), "store": options.store.name, "num": num, "repeats": repeats}
    found = {**{key: rounded(value) for key, value in figures.items()}, **about}
    if options.into is not None:
        earlier = json.loads(options.into.read_text()) if options.into.exists() else {}
        options.into.write_text(json.dumps({**earlier, **found}, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
