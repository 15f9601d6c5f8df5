"""A published store of known features, written through the store's own interface."""

import hashlib
import json

import numpy as np
import pytest

from embedpipe.manifest.table import Manifest
from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store import open_group, publish

SPEC = BackboneSpec("tiny", "a" * 32, "pillow 1", "{}", "float32", "cpu")
GAP = TapSpec("layer1", "gap")
MAP = TapSpec("layer2", "none", "float32")
SHAPES = {GAP: (3,), MAP: (2, 2, 2)}


def key_of(name):
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def feature(name, tap, part=0):
    rng = np.random.default_rng([*key_of(name), *([part] if part else [])])
    return rng.standard_normal(SHAPES[tap]).astype(tap.dtype)


def card():
    taps = {
        tap.name: {**tap.to_dict(), "shape": list(shape), "depth": depth}
        for (tap, shape), depth in zip(SHAPES.items(), (0.25, 1.0), strict=True)
    }
    about = {"name": "tiny", "model": "torchvision:tiny", "weights": "random:0", "role": "random"}
    return {**about, "spec": SPEC.to_dict(), "taps": taps}


def grow(group, names, failing=()):
    """Names, or pairs of a name and the number of a part."""
    pairs = [name if isinstance(name, tuple) else (name, 0) for name in names]
    with group.lock():
        group.recover()
        group.ensure_taps(SHAPES)
        keys = np.frombuffer(b"".join(key_of(name) for name, _ in pairs), np.uint8).reshape(-1, 16)
        plan = group.plan(keys, np.array([part for _, part in pairs], np.int32))
        for block in plan.blocks:
            with group.writer(plan, block, batch=1000) as writer:
                for segment in block.segments:
                    named = {int(row): pairs[plan.wanted_of_row[row]] for row in segment.rows}
                    bad = [row for row, pair in named.items() if pair in failing or pair[0] in failing]
                    good = [row for row in named if row not in bad]
                    values = {
                        tap.name: np.stack([feature(named[r][0], tap, named[r][1]) for r in good])
                        for tap in SHAPES
                    }
                    writer.append(good, values, dict.fromkeys(bad, "cut short"))
                writer.commit()


@pytest.fixture
def make_store(tmp_path):
    """Call with lists of names, grown one after the other; returns the published folder."""

    def make(*growths, failing=(), changed=None):
        group = open_group(tmp_path / "stores", SPEC)
        for names in growths:
            grow(group, names, failing)
        out = tmp_path / "features" / "tiny"
        out.parent.mkdir(exist_ok=True)
        about = {**card(), **(changed or {})}
        publish(group, [tap.name for tap in SHAPES], out, {"card.json": json.dumps(about).encode()})
        return out

    return make


@pytest.fixture
def make_manifest():
    def make(names):
        return Manifest.from_rows(
            "photos",
            {"kind": "folder"},
            "image",
            sample_ids=names,
            keys=[key_of(name) for name in names],
            domain="target",
            groups=names,
            splits=["train"] * len(names),
            locators=names,
        )

    return make
