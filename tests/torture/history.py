"""The life of one working store, in phases that may be killed anywhere and started again.

`python history.py FOLDER` goes on where the folder's `phase` says, and prints the name of each phase as it begins. The
backbone is a few numpy lines (the store tests' `Grower`), so that a whole life takes seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
from conftest import GAP, GRID, Grower, keys_of  # type: ignore[import-not-found]

from embedpipe.store import publish
from embedpipe.store.disk import replace_file
from embedpipe.upkeep.compaction import compact, erase, find_dead
from embedpipe.upkeep.repair import repair_group

WINDOWS = [f"s{i}#{part}" for i in range(30, 50) for part in (1, 2)]  # further rows of samples that have one
FIRST = [f"s{i}" for i in range(120)]
GROWN = [*(f"s{i}" for i in range(10, 180)), *WINDOWS]
KEPT = [*(f"s{i}" for i in range(20, 150)), *WINDOWS]
LAST = [*KEPT, *(f"t{i}" for i in range(40))]
SECRET = "s33"
DAMAGED = f"{GAP.name}/c/2/0"
TAPS = [GAP, GRID]


class History:
    """Each phase may run again from any point at which it was killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.grower = Grower(folder / "stores", on_append=lambda: time.sleep(0.001))

    def extract(self) -> None:
        self.grower.grow(FIRST, [GAP])

    def grow(self) -> None:  # new samples rewrite a tail, and a tap is new
        self.grower.grow(GROWN, TAPS)

    def publish(self) -> None:
        publish(self.grower.open(), [tap.name for tap in TAPS], self.folder / "published")

    def damage(self) -> None:
        shard = self.grower.open().path / DAMAGED
        shard.unlink(missing_ok=True)  # not the published link of it
        shard.write_bytes(b"damaged")

    def repair(self) -> None:
        repair_group(self.grower.open().path, lambda path, record: [], wait_s=5.0)

    def refill(self) -> None:
        self.grower.grow(GROWN, TAPS)

    def gc(self) -> None:
        group = self.grower.open()
        with group.lock():
            group.recover()
            compact(group, find_dead(group, keys_of(KEPT)).mask)

    def forget(self) -> None:
        group = self.grower.open()
        with group.lock():
            group.recover()
            rows = [i for i, key in enumerate(group.keys()) if key.tobytes() == keys_of([SECRET]).tobytes()]
            if rows:
                erase(group, rows)

    def grow_again(self) -> None:
        self.grower.grow([name for name in LAST if name.partition("#")[0] != SECRET], TAPS)

    def publish_again(self) -> None:
        self.publish()


PHASES = (
    "extract", "grow", "publish", "damage", "repair", "refill", "gc", "forget", "grow_again", "publish_again",
)  # fmt: skip


def phase_of(folder: Path) -> int:
    """The phase that is to run next."""
    path = folder / "phase"
    return int(path.read_text()) if path.exists() else 0


if __name__ == "__main__":
    place = Path(sys.argv[1])
    life = History(place)
    for number in range(phase_of(place), len(PHASES)):
        print(PHASES[number], flush=True)
        getattr(life, PHASES[number])()
        replace_file(place / "phase", str(number + 1).encode())
