"""Arrays of a head as one safetensors file; those that do not fit memory are written, and mapped, without holding them.

The bytes are the same either way, and are what the safetensors library writes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_bytes
from safetensors.numpy import save as save_bytes

from embedpipe.heads.rows import Rows

# the widest first, as the library lays them out
_NAMES = ("U64", "I64", "F64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8", "BOOL")
_TYPES = ("u8", "i8", "f8", "f4", "u4", "i4", "f2", "u2", "i2", "i1", "u1", "?")
_NAME_OF = {np.dtype(one): name for name, one in zip(_NAMES, _TYPES, strict=True)}
MAPPED_NBYTES = 256 << 20
"""Files of more are mapped when they are read, not held."""


def digest_of(path: Path) -> str:
    """Blake2b-128 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], far: Mapping[str, Rows]) -> None:
    """Write arrays, and rows by blocks.

    Parameters
    ----------
    far
        Rows that are written as float32 arrays.
    """
    if not far:
        path.write_bytes(save_bytes({name: np.ascontiguousarray(t) for name, t in sorted(tensors.items())}))
        return
    kind = {name: t.dtype for name, t in tensors.items()} | {name: np.dtype(np.float32) for name in far}
    shape = {name: t.shape for name, t in tensors.items()} | {name: rows.shape for name, rows in far.items()}
    order = sorted(kind, key=lambda name: (_NAMES.index(_NAME_OF[kind[name]]), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        start, end = end, end + math.prod(shape[name]) * kind[name].itemsize
        header[name] = {
            "dtype": _NAME_OF[kind[name]],
            "shape": list(shape[name]),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            if name in far:
                for _, block in far[name].blocks():
                    file.write(np.ascontiguousarray(block, np.float32).tobytes())
            else:
                file.write(np.ascontiguousarray(tensors[name]).tobytes())


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a file that is known to be whole; of a large file read-only maps of it."""
    if path.stat().st_size <= MAPPED_NBYTES:
        return load_bytes(path.read_bytes())
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    types = dict(zip(_NAMES, _TYPES, strict=True))
    return {
        name: np.memmap(
            path, types[one["dtype"]], "r", 8 + size + one["data_offsets"][0], tuple(one["shape"])
        )
        for name, one in header.items()
    }
