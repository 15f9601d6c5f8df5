"""Fill a small tmpfs while a store grows in it: a clear error, nothing committed lost, and it goes on after.

Needs the right to mount, which `unshare` gives to most users; where it does not, says so and exits with 1.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import GAP, GRID, Grower, expected
from embedpipe.errors import DiskFullError
from embedpipe.store import FeatureStore, verify
root = Path(sys.argv[1])
grower = Grower(root / "stores")
names = [f"s{i}" for i in range(2000)]
ballast = root / "ballast"
group = grower.grow(names[:32], [GAP])
ballast.write_bytes(b"x" * 600_000)
try:
    grower.grow(names, [GAP, GRID])
except DiskFullError as error:
    print(error)
else:
    sys.exit("expected a full disk, found none")
assert verify(group.path).damages == []
assert (FeatureStore.open(group.path).read(GAP.name, range(32)) == expected(names[:32], GAP)).all()
ballast.unlink()
group = grower.grow(names[:400], [GAP, GRID])
assert verify(group.path).damages == []
assert (FeatureStore.open(group.path).read(GRID.name, range(400)) == expected(names[:400], GRID)).all()
print("a full disk was said, nothing committed was lost, and the store went on")
"""


def main() -> int:
    helpers = str(Path(__file__).parents[1] / "store")
    with tempfile.TemporaryDirectory() as folder:
        inner = 'mount -t tmpfs -o size=1m tmpfs "$1" || exit 77; shift; exec "$@"'
        command = [
            "unshare", "--mount", "--map-root-user", "sh", "-c", inner, "sh", folder,
            sys.executable, "-c", SCRIPT, folder, helpers,
        ]  # fmt: skip
        try:
            code = subprocess.run(command, check=False).returncode
        except FileNotFoundError:
            code = 77
    if code == 77:
        print("this needs the right to mount a tmpfs (unshare --mount --map-root-user)", file=sys.stderr)
    return min(code, 1)


if __name__ == "__main__":
    sys.exit(main())
