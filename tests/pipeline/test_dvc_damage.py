"""A damaged file is one file in three places: verify names it in each, and repair outlasts the next `dvc repro`."""

import json

import pytest

pytestmark = pytest.mark.slow


def damage(path, how):
    mode = path.stat().st_mode
    path.chmod(0o644)
    if how == "flip":  # in place: every link of the file is damaged
        with path.open("r+b") as file:
            file.seek(100)
            byte = file.read(1)
            file.seek(100)
            file.write(bytes([byte[0] ^ 1]))
        path.chmod(mode)
    elif how == "truncate":
        with path.open("r+b") as file:
            file.truncate(50)
        path.chmod(mode)
    else:
        path.unlink()


def damages(project):
    out = project.run("embedpipe", "verify", "net", "--json", code=1)
    found = json.loads(out[out.index("[") :])
    return {one["where"].split(", ")[1].split(" ")[0] for one in found if one["damages"]}


@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_a_shard_damaged_in_all_three_places_is_embedded_again_and_right_after_the_next_repro(tracked, how):
    shard = tracked.root / "data/features/net/block1.gap/c/0/0"
    whole = {p: p.read_bytes() for p in tracked.shards()}
    damage(shard, how)
    assert damages(tracked) == {"published", "working", "DVC's"}
    out = tracked.run("embedpipe", "repair", "net")
    assert "embedded again: block1.gap (72 rows)" in out and "72 embedded" in out
    assert {p: p.read_bytes() for p in tracked.shards()} == whole
    tracked.repro()
    assert {p: p.read_bytes() for p in tracked.shards()} == whole
    tracked.run("embedpipe", "verify", "net")
    assert tracked.run("dvc", "status", "extract@net").count("changed outs") == 0
    assert "nothing to repair" in tracked.run("embedpipe", "repair", "net")


@pytest.mark.parametrize("place", ["published", "working", "cache"])
def test_a_file_deleted_in_one_place_is_put_back_from_another_and_nothing_is_embedded(tracked, place):
    shard = tracked.root / "data/features/net/block1.gap/c/0/0"
    inode = shard.stat().st_ino
    data = shard.read_bytes()
    top = {"published": "data/features", "working": ".dvc/embedpipe", "cache": ".dvc/cache"}[place]
    (victim,) = [p for p in (tracked.root / top).rglob("*") if p.is_file() and p.stat().st_ino == inode]
    victim.unlink()
    assert damages(tracked) == {{"cache": "DVC's"}.get(place, place)}
    out = tracked.run("embedpipe", "repair", "net")
    assert "0 embedded" in out
    tracked.repro()
    assert shard.read_bytes() == data and victim.read_bytes() == data
    tracked.run("embedpipe", "verify", "net")


@pytest.mark.parametrize("name", ["zarr.json", "block1.gap/zarr.json", "keys/zarr.json", "group.json",
                                  "ledger.jsonl", "keys/c/0/0", "part/c/0", "probe/block1.gap.npy"])  # fmt: skip
def test_files_that_can_be_derived_are_mended_without_embedding(tracked, name):
    (plate,) = tracked.root.glob(".dvc/embedpipe/stores/*/group.json")
    victim = plate.parent / name
    whole = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(whole[: len(whole) // 2])
    tracked.run("embedpipe", "verify", "net", code=1)
    out = tracked.run("embedpipe", "repair", "net")
    if name == "probe/block1.gap.npy":  # every link of it is damaged
        assert "probe features are lost" in out
    assert "0 embedded" in out
    tracked.repro()
    tracked.run("embedpipe", "verify", "net")


def test_a_damaged_store_json_is_published_again(tracked):
    damage(tracked.root / "data/features/net/store.json", "flip")
    tracked.run("embedpipe", "verify", "net", code=1)
    assert "0 embedded" in tracked.run("embedpipe", "repair", "net")
    tracked.repro()
    tracked.run("embedpipe", "verify", "net")
