"""The same twelve images in every container that a source reads, with one of them unreadable where that can be.

Each maker writes into a folder and returns the options of the source, the key that each image must have, and the name
of the unreadable sample.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from PIL import Image

from embedpipe.manifest.keys import array_key, content_key

NUM, PX = 12, 6
PIXELS = np.random.default_rng(7).integers(0, 256, (NUM, PX, PX, 3), dtype=np.uint8)
GREY = np.ascontiguousarray(PIXELS[..., 0])
DIGITS = [i % 3 for i in range(NUM)]
NAMES = [f"{i:08d}" for i in range(NUM)]


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[i]).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Made:
    """A source over the images."""

    options: dict[str, Any]
    keys: list[bytes]
    names: list[str]
    bad: str | None = None
    open_with: dict[str, Any] = field(default_factory=dict)


def folder(root: Path) -> Made:
    for i in range(NUM):
        path = root / "photos" / f"class{DIGITS[i]}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    (root / "photos" / "class0" / "99.png").write_bytes(png(0)[:20])
    names = [f"class{DIGITS[i]}/{i:02d}.png" for i in range(NUM)]
    return Made(
        {"kind": "folder", "path": "photos"},
        [content_key(png(i)) for i in range(NUM)],
        names,
        "class0/99.png",
    )


def table(root: Path) -> Made:
    (root / "files").mkdir()
    for i in range(NUM):
        (root / "files" / f"{i:02d}.png").write_bytes(png(i))
    rows = [f"n{i:02d},files/{i:02d}.png,{DIGITS[i]}" for i in range(NUM)] + ["n99,files/absent.png,0"]
    (root / "t.csv").write_text("\n".join(["id,file,digit", *rows]) + "\n")
    keys = [content_key(png(i)) for i in range(NUM)]
    return Made(
        {"kind": "table", "path": "t.csv", "image": "file"},
        keys,
        [f"n{i:02d}" for i in range(NUM)],
        "n99",
        {"id_column": "id"},
    )


def array_keys() -> list[bytes]:
    return [array_key(image) for image in PIXELS]


def hdf5_nhwc(root: Path) -> Made:
    with h5py.File(root / "d.h5", "w") as file:
        file.create_dataset("x/images", data=PIXELS, chunks=(5, PX, PX, 3), compression="gzip")
        file["digit"] = DIGITS
    return Made(
        {"kind": "hdf5", "path": "d.h5", "images": "x/images", "labels": ["digit"]}, array_keys(), NAMES
    )


def hdf5_nchw_floats(root: Path) -> Made:
    """Floats of 0 to 1, channels first, with a NaN in one row; labels in a compound table."""
    floats = np.moveaxis(PIXELS, -1, 1).astype(np.float32) / 255
    bad = np.full((1, 3, PX, PX), np.nan, np.float32)
    rows = np.zeros(NUM + 1, dtype=[("digit", "i4"), ("name", h5py.string_dtype())])
    rows["digit"], rows["name"] = [*DIGITS, 0], [*(f"n{i:02d}" for i in range(NUM)), "n99"]
    with h5py.File(root / "d.h5", "w") as file:
        file["images"] = np.concatenate([floats, bad])
        file["about"] = rows
    return Made(
        {"kind": "hdf5", "path": "d.h5", "table": "about"},
        array_keys(),
        [f"n{i:02d}" for i in range(NUM)],
        "n99",
        {"id_column": "name"},
    )


def npy(root: Path) -> Made:
    np.save(root / "images.npy", PIXELS)
    np.save(root / "digit.npy", DIGITS)
    return Made({"kind": "arrays", "path": "images.npy", "labels": ["digit.npy"]}, array_keys(), NAMES)


def npz(root: Path) -> Made:
    np.savez_compressed(root / "d.npz", images=np.moveaxis(PIXELS, -1, 1), digit=DIGITS)
    return Made({"kind": "arrays", "path": "d.npz", "labels": ["digit"]}, array_keys(), NAMES)


def zarr_group(root: Path) -> Made:
    group = zarr.open_group(root / "d.zarr", mode="w")
    group.create_array("images", data=PIXELS, chunks=(5, PX, PX, 3))
    group.create_array("digit", data=np.array(DIGITS))
    return Made({"kind": "arrays", "path": "d.zarr", "labels": ["digit"]}, array_keys(), NAMES)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def tar(root: Path) -> Made:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for i in range(shard * 6, shard * 6 + 6):
            members[f"{i:02d}.png"] = png(i)
            members[f"{i:02d}.cls"] = str(DIGITS[i]).encode()
            members[f"{i:02d}.json"] = json.dumps({"camera": f"c{i % 2}"}).encode()
        if shard:
            members |= {"99.png": b"no picture", "99.cls": b"0"}
        write_tar(root / "shards" / f"{shard:03d}.tar", members)
    keys = [content_key(png(i)) for i in range(NUM)]
    return Made(
        {"kind": "tar", "path": "shards/{000..001}.tar"}, keys, [f"{i:02d}" for i in range(NUM)], "99"
    )


def torchvision(root: Path) -> Made:
    """MNIST's own files, eight images to train on and four to test on."""
    raw = root / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, rows in (("train", slice(0, 8)), ("t10k", slice(8, NUM))):
        images = GREY[rows]
        header = struct.pack(">IIII", 0x803, *images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.array(DIGITS[rows], np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, len(labels)) + labels.tobytes()
        )
    names = [f"train/{i:07d}" for i in range(8)] + [f"test/{i:07d}" for i in range(4)]
    return Made({"kind": "torchvision:MNIST", "path": "data"}, [array_key(image) for image in GREY], names)


def several(root: Path) -> Made:
    first, second = npy(root), tar(root)
    return Made(
        {"kind": "several", "of": {"a": first.options, "b": second.options}},
        first.keys + second.keys,
        [f"a/{name}" for name in first.names] + [f"b/{name}" for name in second.names],
        "b/99",
    )


OWN = """
from pathlib import Path
import numpy as np
from PIL import Image
from embedpipe.errors import UnreadableSample
from embedpipe.manifest.keys import array_key
from embedpipe.sources.base import Scanned

class Raw:
    modalities = ("image",)

    def __init__(self, folder):
        self.folder = folder

    def scan(self, known, progress=None):
        for path in sorted(self.folder.glob("*.raw")):
            try:
                key, reason = array_key(np.asarray(self.read(path.name))), None
            except UnreadableSample as error:
                key, reason = None, str(error)
            yield Scanned(path.stem, path.name, key, reason, {"digit": path.stem[-1]})

    def read(self, locator):
        path = self.folder / locator
        if not path.is_file() or path.stat().st_size != 108:
            raise UnreadableSample("expected 108 bytes")
        return Image.frombytes("RGB", (6, 6), path.read_bytes())

    def notes(self):
        return []

def open_raw(options, access):
    return Raw(Path(access.root) / options["folder"])
"""


def python(root: Path) -> Made:
    """A source of the user's own, in a module beside params.yaml."""
    (root / "raw").mkdir()
    for i in range(NUM):
        (root / "raw" / f"{i:02d}-{DIGITS[i]}.raw").write_bytes(PIXELS[i].tobytes())
    (root / "raw" / "99-0.raw").write_bytes(b"short")
    (root / "own_raw_source.py").write_text(OWN)
    names = [f"{i:02d}-{DIGITS[i]}" for i in range(NUM)]
    options = {"kind": "python:own_raw_source:open_raw", "options": {"folder": "raw"}}
    return Made(options, array_keys(), names, "99-0")


KINDS: dict[str, Callable[[Path], Made]] = {
    make.__name__: make
    for make in (
        folder,
        table,
        hdf5_nhwc,
        hdf5_nchw_floats,
        npy,
        npz,
        zarr_group,
        tar,
        torchvision,
        python,
        several,
    )
}
