"""Repair, compaction and forgetting of a working group, and seeding from a published one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from embedpipe.errors import StoreError
from embedpipe.extract.earlier import FolderStore, seed
from embedpipe.store import FeatureStore, Group, publish, verify
from embedpipe.store.published import read_contents
from embedpipe.upkeep.compaction import compact, erase, find_dead, md5s_of_rows
from embedpipe.upkeep.repair import Mended, repair_group

from .conftest import GAP, GRID, SHAPES, Grower, expected, feature, files_of, keys_of, parts_of
from .crash import Killed, killable

NAMES = [f"s{i}" for i in range(40)]
TAPS = [GAP, GRID]


@pytest.fixture
def group(grower: Grower) -> Group:
    return grower.grow(NAMES, TAPS)


def mend(group: Group, **options: object) -> Mended:
    return repair_group(group.path, lambda path, record: [], **options)  # type: ignore[arg-type]


def check(group: Group, names: list[str]) -> None:
    assert verify(group.path).damages == []
    store = FeatureStore.open(group.path)
    rows = store.rows_of(keys_of(names))
    for tap in TAPS:
        np.testing.assert_array_equal(store.read(tap.name, rows), expected(names, tap))


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_only_the_rows_of_a_damaged_shard_are_computed_again(group: Group, grower: Grower, how: str) -> None:
    before = files_of(group.path)
    shard = group.path / GRID.name / "c" / "2" / "0" / "0"
    data = bytearray(shard.read_bytes())
    shard.unlink()
    if how != "delete":
        data[50] ^= 1
        shard.write_bytes(data if how == "flip" else data[:40])
    done = mend(group)
    assert done.lost == {GRID.name: 8}
    assert verify(group.path).damages == []
    assert np.isnan(FeatureStore.open(group.path).read(GRID.name, range(16, 24))).all()
    grower.computed.clear()
    check(grower.grow(NAMES, TAPS), NAMES)
    assert set(grower.computed) == {(name, GRID.name) for name in NAMES[16:24]}
    after = files_of(group.path)
    assert {k: v for k, v in after.items() if k != "ledger.jsonl"} == {
        k: v for k, v in before.items() if k != "ledger.jsonl"
    }


def test_lost_keys_are_guessed_from_the_manifests_where_the_checksum_agrees(
    group: Group, grower: Grower
) -> None:
    before = files_of(group.path)
    (group.path / "keys/c/0/0").write_bytes(b"x")
    (group.path / "part/c/0").unlink()
    done = mend(group, known_keys=keys_of([*NAMES, "more"]))
    assert sorted(done.restored) == ["keys/c/0/0", "part/c/0"] and not done.lost
    assert files_of(group.path) == before


def test_rows_whose_keys_cannot_be_had_are_nobodys_and_their_samples_get_new_ones(
    group: Group, grower: Grower
) -> None:
    (group.path / "keys/c/0/0").write_bytes(b"x")
    done = mend(group, known_keys=keys_of(NAMES[::-1]))
    assert "keys of rows 0 to 40 are lost" in done.notes[0]
    check(grower.grow(NAMES, TAPS), NAMES)
    group.reload()
    assert group.num_rows == 80
    assert find_dead(group, keys_of(NAMES)).num_rows == 40


def test_a_plate_or_ledger_that_nothing_gives_says_what_to_do(group: Group) -> None:
    ledger = group.path / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-9])
    with pytest.raises(StoreError, match=r"no published store of this group .* `dvc pull` may bring one"):
        mend(group)
    ledger.write_bytes(whole)
    (group.path / "group.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"no backbone of params\.yaml has this fingerprint"):
        mend(group)
    mend(group, specs=[group.spec])
    assert verify(group.path).damages == []


def test_a_ledger_is_written_again_from_the_published_store(group: Group, tmp_path: Path) -> None:
    publish(group, [tap.name for tap in TAPS], tmp_path / "out")
    (group.path / "ledger.jsonl").write_bytes(b"")
    mend(group, published=[read_contents(tmp_path / "out")])
    check(group, NAMES)


def test_dead_rows_go_and_the_others_keep_their_features(group: Group, grower: Grower) -> None:
    kept = [name for i, name in enumerate(NAMES) if i % 3]
    with group.lock():
        group.recover()
        dead = find_dead(group, keys_of(kept))
        assert dead.num_rows == 14 and dead.nbytes == 14 * (6 * 2 + 6 * 4)
        compact(group, dead.mask)
    assert group.num_rows == len(kept)
    check(group, kept)
    np.testing.assert_array_equal(group.keys(), keys_of(kept))
    grower.computed.clear()
    check(grower.grow(NAMES, TAPS), NAMES)
    assert {name for name, _ in grower.computed} == set(NAMES[::3])


def test_nothing_of_a_forgotten_sample_stays_in_the_working_store(group: Group, grower: Grower) -> None:
    held = [feature("s7", tap).tobytes() for tap in TAPS] + [keys_of(["s7"]).tobytes()]
    assert all(any(piece in data for data in files_of(group.path, ()).values()) for piece in held)
    with group.lock():
        group.recover()
        assert md5s_of_rows(group, [7]) == [], "what was never published is in nobody's cache"
    publish(group, [GAP.name, GRID.name], grower.root.parent / "published")
    with group.lock():
        group.recover()
        # one shard of each tap, the keys and the part numbers
        assert len(md5s_of_rows(group, [7])) == 4
        erase(group, [7])
    for name, data in files_of(group.path, ()).items():
        assert not any(piece in data for piece in held), name
    check(group, [name for name in NAMES if name != "s7"])
    assert FeatureStore.open(group.path).rows_of(keys_of(["s7"])).tolist() == [-1]
    assert FeatureStore.open(group.path).holes(GAP.name)[7] == "forgotten"


@pytest.mark.parametrize("kind", ["compact", "forget", "repair"])
def test_a_kill_at_every_operation_of_upkeep_ends_byte_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    prepared = Grower(tmp_path / "prepared")
    prepared.grow(NAMES[:20], TAPS)
    kept = [name for i, name in enumerate(NAMES[:20]) if i != 7]

    def act(grower: Grower) -> None:
        group = grower.open()
        if kind == "repair":
            mend(group)
            return
        with group.lock():
            group.recover()
            dead = find_dead(group, keys_of(kept)).mask
            if dead.any() and kind == "compact":
                compact(group, dead)
            elif dead.any() and group.parts()[7] != -1:
                erase(group, [7])

    def copied(name: str) -> Grower:
        shutil.copytree(prepared.root, tmp_path / name)
        grower = Grower(tmp_path / name)
        if kind == "repair":
            (grower.open().path / GAP.name / "c/0/0").write_bytes(b"x")
        return grower

    calm = copied("calm")
    with killable(monkeypatch) as killer:
        act(calm)
        count = killer.count
    wanted = files_of(calm.open().path)
    assert count > 15
    for at in range(count):
        grower = copied(f"kill{at}")
        with killable(monkeypatch) as killer:
            killer.reset(at)
            with pytest.raises(Killed):
                act(grower)
        path = grower.open().path
        (path / "lock").unlink(missing_ok=True)
        damaged = {d.path.relative_to(path).as_posix() for d in verify(path).damages}
        assert damaged <= ({f"{GAP.name}/c/0/0"} if kind == "repair" else set()), at
        try:
            store = FeatureStore.open(path)
        except StoreError as error:
            assert "rewrite of rows" in str(error) and kind != "repair"
        else:
            rows = store.rows_of(keys_of(kept))
            np.testing.assert_array_equal(store.read(GRID.name, rows), expected(kept, GRID))
        act(grower)
        assert files_of(path) == wanted, f"killed at operation {at}"


def test_an_empty_group_is_seeded_by_link_and_another_by_row(group: Group, tmp_path: Path) -> None:
    with group.lock():
        group.recover()
        group.save_probe({tap.name: feature("probe", tap) for tap in TAPS})
    published = tmp_path / "out"
    publish(group, [tap.name for tap in TAPS], published)
    contents = read_contents(published)
    for start in ([], ["other", *NAMES[30:35]]):
        grower = Grower(tmp_path / f"fresh{len(start)}")
        fresh = grower.grow(start, TAPS) if start else grower.open()
        grower.computed.clear()
        with fresh.lock():
            fresh.recover()
            fresh.ensure_taps({tap: SHAPES[tap] for tap in TAPS}, shard_nbytes=192)
            num_taken = seed(
                fresh,
                contents,
                FolderStore(published),
                keys_of(NAMES),
                parts_of(NAMES),
                [tap.name for tap in TAPS],
            )
        assert num_taken == 40 - len(start[1:])
        check(grower.grow([*NAMES, "new"], TAPS), [*NAMES, "new"])
        assert {name for name, _ in grower.computed} == {"new"}
        linked = (fresh.path / GAP.name / "c/0/0").stat().st_ino == (
            published / GAP.name / "c/0/0"
        ).stat().st_ino
        assert linked == (not start)


def test_a_damaged_shard_of_the_earlier_store_is_computed_and_not_taken_over(
    group: Group, tmp_path: Path
) -> None:
    with group.lock():
        group.recover()
        group.save_probe({tap.name: feature("probe", tap) for tap in TAPS})
    published = tmp_path / "out"
    publish(group, [tap.name for tap in TAPS], published)
    contents = read_contents(published)
    shard = published / GAP.name / "c/1/0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    grower = Grower(tmp_path / "fresh")
    fresh = grower.open()
    with fresh.lock():
        fresh.recover()
        fresh.ensure_taps({tap: SHAPES[tap] for tap in TAPS}, shard_nbytes=192)
        names = [tap.name for tap in TAPS]
        seed(fresh, contents, FolderStore(published), keys_of(NAMES), parts_of(NAMES), names)
    check(grower.grow(NAMES, TAPS), NAMES)
    assert set(grower.computed) == {(name, GAP.name) for name in NAMES[16:32]}
