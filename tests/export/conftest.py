"""A published store of known features with missing samples, and the manifest that names them."""

import hashlib

import numpy as np
import pytest

from embedpipe.manifest.table import Manifest
from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store import open_group, publish

SPEC = BackboneSpec("tiny", "a" * 32, "pillow 1", "{}", "float32", "cpu")
GAP = TapSpec("layer1", "gap")
MAP = TapSpec("layer2", "none", "float32")
SHAPES = {GAP: (3,), MAP: (2, 2, 2)}
NAMES = [f"s{i:03d}" for i in range(40)]


def key_of(name):
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def value(name, tap):
    return np.random.default_rng(list(key_of(name))).standard_normal(SHAPES[tap]).astype(tap.dtype)


def values(names, tap):
    return np.stack([value(name, tap) for name in names])


def manifest_of(names):
    return Manifest.from_rows(
        "photos",
        {"kind": "folder"},
        "image",
        sample_ids=[f"id-{name}" for name in names],
        keys=[key_of(name) for name in names],
        domain="target",
        groups=names,
        splits=["val" if int(name[-1]) == 0 else "train" for name in names],
        locators=names,
    )


@pytest.fixture
def make(tmp_path):
    """Publish a store of lists of names, grown one after the other; call again to grow it."""

    def publish_store(*growths):
        group = open_group(tmp_path / "stores", SPEC)
        for names in growths:
            with group.lock():
                group.recover()
                group.ensure_taps(SHAPES, shard_nbytes=192)
                keys = np.frombuffer(b"".join(map(key_of, names)), np.uint8).reshape(-1, 16)
                plan = group.plan(keys)
                for block in plan.blocks:
                    with group.writer(plan, block, batch=1000) as writer:
                        for segment in block.segments:
                            named = [names[plan.wanted_of_row[row]] for row in segment.rows]
                            writer.append(segment.rows, {tap.name: values(named, tap) for tap in SHAPES})
                        writer.commit()
        out = tmp_path / "features" / "tiny"
        out.parent.mkdir(exist_ok=True)
        publish(group, [tap.name for tap in SHAPES], out)
        return out

    return publish_store
