"""How near extraction comes to the forward pass alone, and how far it is from what one writes first.

    python benchmarks/extract.py [--quick] [--data FOLDER] [--num 320] [--batch 32] [--repeats 3] [--peer PYTHON]

Makes photographs of its own (JPEG, 500 x 375, deterministic, 256 pictures) unless --data names a folder of images.
ResNet-50 and ResNet-18 with random weights whose batch norms have seen these images (no download), taps layer2.gap and
layer4.gap, in bfloat16 where the hardware has it; figures are ResNet-50's unless named. The last batch norm of each
residual block is scaled by 0.25, as it is small in trained networks: at 1 random blocks amplify rounding tenfold.
Arms are alternated and repeated; the medians count. Times of extraction are of the whole command (manifest, probe,
embedding, commit, publishing) less that of a run with nothing to do.

efficiency       images/s of extraction / of a loop of forward passes over decoded float32 batches in memory
decode_share     core time of decoding / of the bare loop: what extraction must do besides on the same cores
vs_naive         / a DataLoader (the better of 0 and 2 workers), the transform, float32, hooks, np.save; in a process
                 of its own, so that nothing that extraction sets reaches it
truncation_ratio time to layer2 alone / to both taps
append_cost      time for 1 % more samples / for all; as many as a batch, which is computed whole however few there are
array_overhead   time of one --task 1/1 / of a plain run
dask_overhead    time of dask with one worker / of a plain run, of one batch taken off both (workers start in that), in
                 blocks of 16 batches (the default's hold 16,384 of these rows)
dask_2_workers   the same with two workers, which share the cores
peak_rss_growth  peak memory with 4 N samples / with N
vs_peer          / thingsvision, by the Python given with --peer

Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from parts.photographs import TAPS, Project, make_photographs, open_backbone, precision
from PIL import Image

from embedpipe.extract.device import has_bfloat16, resolve_device
from embedpipe.extract.jpeg import decode_as_tensor, tensor_decoder
from embedpipe.sources.decode import DECODER, decode

MODELS = ("resnet50", "resnet18")


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def bare(root: Path, model: str, batch: int, photos: Path, num: int) -> Callable[[], object]:
    """Forward passes over decoded float32 batches that lie in memory, as fast as this machine makes them."""
    backbone = open_backbone(root, photos, model)
    device = resolve_device("auto")
    forward = backbone.forward(backbone.tap_specs(), device, precision())
    paths = sorted(photos.rglob("*.jpg"))[: 4 * batch]
    decoded = [backbone.preprocess(Image.open(path).convert("RGB")) for path in paths]
    batches = [torch.stack(decoded[i : i + batch]) for i in range(0, len(decoded) - batch + 1, batch)]
    batches = [x.contiguous(memory_format=torch.channels_last).to(device) for x in batches]

    def run() -> None:
        for i in range(num // batch):
            forward(batches[i % len(batches)])
        if device.type == "cuda":
            torch.cuda.synchronize()

    forward(batches[0])
    return run


_NAIVE = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
import torch
from parts.photographs import TAPS, Photos, open_backbone, resolve_device
root, photos, model, batch, workers = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], *map(int, sys.argv[5:7])
num = int(sys.argv[7])
network = open_backbone(root, photos, model).module.to(memory_format=torch.contiguous_format)
device = resolve_device("auto")
network = network.to(device)
kept = {tap: [] for tap in TAPS}
for tap in TAPS:
    network.get_submodule(tap).register_forward_hook(
        lambda part, inputs, output, tap=tap: kept[tap].append(output.mean((2, 3)).cpu().numpy())
    )
began = time.perf_counter()
data = torch.utils.data.Subset(Photos(photos, model), range(num))
with torch.no_grad():
    for x in torch.utils.data.DataLoader(data, batch_size=batch, num_workers=workers):
        network(x.to(device))
for tap in TAPS:
    np.save(root / f"{tap}.npy", np.concatenate(kept[tap]))
print(json.dumps(time.perf_counter() - began))
"""


def naive(root: Path, model: str, batch: int, photos: Path, workers: int, num: int) -> float:
    """Seconds of DataLoader, hooks, float32, np.save at the end, for the first `num` images."""
    arguments = [
        str(Path(__file__).parent),
        str(root),
        str(photos),
        model,
        str(batch),
        str(workers),
        str(num),
    ]
    found = subprocess.run(
        [sys.executable, "-c", _NAIVE, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True,
    )  # fmt: skip
    return float(found.stdout.split()[-1])


def decode_s(root: Path, model: str, photos: Path, num: int = 64) -> float:
    """Seconds that reading, decoding and resampling one image takes one core."""
    backbone = open_backbone(root, photos, model)
    made = backbone.resampling_tensors() if precision() != "float32" else backbone
    read = decode_as_tensor if made.takes_tensors and tensor_decoder() else decode
    paths = sorted(photos.rglob("*.jpg"))[:num]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(2):  # the first time warms up
            seconds = timed(lambda: [made.inputs.stage(read(path.read_bytes()), 0) for path in paths])
    finally:
        torch.set_num_threads(before)
    return seconds / len(paths)


def one_model(
    root: Path, photos: Path, model: str, batch: int, repeats: int, *, whole: bool
) -> dict[str, object]:
    """Rates and ratios of one model, each the median of alternated repeats; efficiency alone where not `whole`."""
    num = len(sorted(photos.rglob("*.jpg")))
    project = Project(root / model, photos, model, batch)
    shallow = Project(root / f"{model}-shallow", photos, model, batch, TAPS[:1])
    spent: dict[str, list[float]] = {}
    num_naive = min(num, 6 * batch)
    verdict = None
    loop: Callable[[], object] | None = None
    for repeat in range(repeats + 1):  # the first round warms up and is not counted
        for one in (project, shallow):
            one.forget()
        before = torch.get_num_threads()
        round_ = {"full": timed(lambda: project.extract())}
        project.extract()  # nothing to do
        round_["noop"] = timed(project.extract)
        loop = loop or bare(root, model, batch, photos, num)
        round_["bare"] = timed(loop) * num / (num // batch * batch)
        if whole:
            round_["shallow"] = timed(shallow.extract)
            project.forget()
            round_["part"] = timed(project.part)
        if repeat or repeats == 1:
            for workers in (0, 2) if whole else ():
                round_[f"naive{workers}"] = naive(root, model, batch, photos, workers, num_naive)
            for name, seconds in round_.items():
                spent.setdefault(name, []).append(seconds)
        project.forget()
        verdict = project.extract().verdict  # type: ignore[attr-defined]
        assert torch.get_num_threads() == before
    seconds = {name: statistics.median(values) for name, values in spent.items()}
    noop = seconds["noop"]
    full = seconds["full"] - noop
    one_s = decode_s(root, model, photos)
    figures = {
        "precision": precision(),
        "images_per_s": num / full,
        "bare_images_per_s": num / seconds["bare"],
        "noop_s": noop,
        "efficiency": seconds["bare"] / full,
        "decode_share": one_s / (seconds["bare"] / num * torch.get_num_threads()),
        "decode_ms": one_s * 1e3,
        "shares": verdict.shares,  # type: ignore[union-attr]
        "spread": {
            name: (max(values) - min(values)) / statistics.median(values) for name, values in spent.items()
        },
    }
    if not whole:
        return figures
    found = {tap: project.features(tap)[:num_naive].astype(np.float64) for tap in TAPS}
    reference = {tap: np.load(root / f"{tap}.npy") for tap in TAPS}
    errors = {
        tap: np.linalg.norm(found[tap] - reference[tap]) / np.linalg.norm(reference[tap]) for tap in TAPS
    }
    by_hand = min(seconds["naive0"], seconds["naive2"]) / num_naive
    return {
        **figures,
        "naive_images_per_s": 1 / by_hand,
        "vs_naive": by_hand * num / full,
        "error_vs_float32": {tap: float(error) for tap, error in errors.items()},  # relative L2, as stored
        "truncation_ratio": (seconds["shallow"] - noop) / full,
        "array_overhead": (seconds["part"] - noop) / full,
    }


def append_cost(root: Path, photos: Path, batch: int, repeats: int) -> dict[str, float] | None:
    """Time for 1 % more samples / for all; None where 1 % is less than half a batch, which is always whole."""
    num = len(sorted(photos.rglob("*.jpg")))
    more = num // 100
    if more < batch // 2:
        return None
    copy = shutil.copytree(photos, root / "grown", copy_function=os.link)
    project = Project(root / "append", copy, MODELS[0], batch)
    full = timed(project.extract)
    grown, noops = [], []
    for i in range(repeats):
        noops.append(timed(project.extract))
        make_photographs(copy, more, first=10**6 + i * more)
        project.list()
        grown.append(timed(project.extract))
    noop = statistics.median(noops)
    return {
        "append_cost": (statistics.median(grown) - noop) / (full - noop),
        "append_of": num,
        "append_more": more,
    }


def dask_overhead(root: Path, photos: Path, batch: int, repeats: int) -> dict[str, float]:
    """Time of dask with one and with two workers / of a plain run, in blocks of sixteen batches."""
    from embedpipe.store import layout

    few, some = root / "few", root / "some"
    for folder, num in ((few, batch), (some, 32 * batch)):
        folder.mkdir()
        for path in sorted(photos.rglob("*.jpg"))[:num]:
            os.link(path, folder / path.name)
    before, layout.MAX_SHARD_ROWS = layout.MAX_SHARD_ROWS, 1 << (16 * batch).bit_length() - 1
    try:
        arms = {}
        for name, options in (
            ("serial", {}),
            ("dask1", {"executor": "dask", "workers": 1}),
            ("dask2", {"executor": "dask", "workers": 2}),
        ):
            for which, folder in (("all", some), ("few", few)):
                arms[name, which] = Project(root / f"{name}-{which}", folder, MODELS[0], batch, **options)
        spent: dict[tuple[str, str], list[float]] = {key: [] for key in arms}
        for _ in range(repeats):
            for key, project in arms.items():
                project.forget()
                spent[key].append(timed(project.extract))
    finally:
        layout.MAX_SHARD_ROWS = before
    median = {key: statistics.median(values) for key, values in spent.items()}
    net = {name: median[name, "all"] - median[name, "few"] for name in ("serial", "dask1", "dask2")}
    return {
        "dask_block": 16 * batch,
        "dask_overhead": net["dask1"] / net["serial"],
        "dask_2_workers": net["dask2"] / net["serial"],
        "dask_start_s": median["dask1", "few"] - median["serial", "few"],
    }


_PEAK = """
import resource, sys
from pathlib import Path
from embedpipe.steps.extract import extract_features
from embedpipe.workspace import Workspace
root = Path(sys.argv[1])
extract_features(Workspace(root, root / ".embedpipe"), "net")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_rss_growth(root: Path, batch: int, photos: Path) -> float:
    """Peak memory of a process that embeds 4 N samples / N, with ResNet-18; 4 N are all."""
    peaks = []
    paths = sorted(photos.rglob("*.jpg"))
    num = len(paths) // 4
    for count in (num, 4 * num):
        folder = root / f"photos{count}"
        folder.mkdir()
        for path in paths[:count]:
            os.link(path, folder / path.name)
        Project(root / f"rss{count}", folder, MODELS[1], batch)
        found = subprocess.run(
            [sys.executable, "-c", _PEAK, str(root / f"rss{count}")],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True,
        )  # fmt: skip
        peaks.append(int(found.stdout.split()[-1]))
    return peaks[1] / peaks[0]


_PEER = """
import json, sys, time, torch, torchvision
from importlib.metadata import version
from thingsvision import get_extractor
from thingsvision.utils.data import DataLoader, ImageDataset
extractor = get_extractor(model_name="resnet50", source="torchvision", device=sys.argv[3], pretrained=False)
data = ImageDataset(root=sys.argv[1], out_path=sys.argv[1] + "-out", backend="pt",
                    transforms=extractor.get_transformations())
began = time.perf_counter()
extractor.extract_features(batches=DataLoader(dataset=data, batch_size=int(sys.argv[2]), backend="pt"),
                           module_name="layer4", flatten_acts=False, output_type="ndarray")
rate = len(data) / (time.perf_counter() - began)
print(json.dumps([rate, f"thingsvision {version('thingsvision')}, torch {torch.__version__}"]))
"""


def peer(python: str | None, photos: Path, batch: int, folder: Path) -> tuple[float | None, str]:
    """Images a second of thingsvision over six batches, or None and why."""
    if python is None:
        return None, "skipped: no --peer; give the Python of an environment that has thingsvision"
    folder.mkdir()
    for path in sorted(photos.rglob("*.jpg"))[: 6 * batch]:
        os.link(path, folder / path.name)
    found = subprocess.run(
        [python, "-c", _PEER, str(folder), str(batch), resolve_device("auto").type],
        capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode:
        return None, f"skipped: {found.stderr.strip().splitlines()[-1:]}"
    rate, what = json.loads(found.stdout.splitlines()[-1])
    return rate, what


def machine() -> dict[str, object]:
    """What it ran on."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    device = resolve_device("auto")
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "bfloat16_in_hardware": has_bfloat16(device),
        "torch": torch.__version__,
        "decoder": tensor_decoder() or DECODER,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a minute: proves the script, its figures mean little"
    )
    parser.add_argument("--data", type=Path, help="a folder of JPEG files instead of made ones")
    parser.add_argument("--num", type=int, default=640, help="images; appended to are a hundred batches")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", help="the Python of an environment that has thingsvision")
    options = parser.parse_args()
    if options.quick:
        options.num, options.batch, options.repeats = 32, 8, 1
    about = machine()
    batch, repeats = options.batch, options.repeats
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        root = Path(folder)
        every = root / "every"
        if options.data is None:
            make_photographs(every, max(options.num, 100 * batch if not options.quick else 0))
        else:
            every = shutil.copytree(options.data, every)
        photos = root / "photos"
        photos.mkdir()
        for path in sorted(every.rglob("*.jpg"))[: options.num]:
            os.link(path, photos / path.name)
        found = {
            model: one_model(root, photos, model, batch, repeats, whole=model == MODELS[0])
            for model in MODELS
        }
        first = found[MODELS[0]]
        rate, why = peer(options.peer, photos, batch, root / "peer")
        named = (
            "efficiency",
            "decode_share",
            "vs_naive",
            "error_vs_float32",
            "truncation_ratio",
            "array_overhead",
        )
        figures = {
            **{name: first[name] for name in named},
            "efficiency_resnet18": found[MODELS[1]]["efficiency"],
            "vs_peer": None if rate is None else first["images_per_s"] / rate,  # type: ignore[operator]
            **(append_cost(root, every, batch, repeats) or {"append_cost": None}),
            **dask_overhead(root, every, batch, min(repeats, 2)),
            "peak_rss_growth": peak_rss_growth(root, batch, every),
        }
    result = {
        **figures, "peer": why, "peer_images_per_s": rate, "models": found, "num": options.num, "batch": batch,
        "repeats": repeats, "quick": options.quick, "machine": about,
    }  # fmt: skip
    print(json.dumps(_rounded(result)))


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
