"""A published store opened by zarr, dask and h5py alone, in processes that import nothing of ours."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from embedpipe.export.view import write_view

sys.path.insert(0, str(Path(__file__).parent))
from conftest import GAP, MAP, NAMES, values

NOTHING_OF_OURS = "import sys; assert not any(name.startswith('embedpipe') for name in sys.modules)"


def run(code):
    """The JSON that a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{NOTHING_OF_OURS}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found):
    np.testing.assert_array_equal(np.array(found["gap"], GAP.dtype), values(NAMES, GAP))
    np.testing.assert_array_equal(np.array(found["map"], MAP.dtype), values(NAMES, MAP))


def test_plain_zarr(make):
    check(
        run(f"""
import json, zarr
group = zarr.open_group({str(make(NAMES))!r}, mode="r")
print(json.dumps({{"gap": group[{GAP.name!r}][:].tolist(), "map": group[{MAP.name!r}][:].tolist()}}))
""")
    )


def test_plain_dask(make):
    check(
        run(f"""
import json, dask.array
def read(tap):
    return dask.array.from_zarr({str(make(NAMES))!r}, component=tap).compute(scheduler="synchronous").tolist()
print(json.dumps({{"gap": read({GAP.name!r}), "map": read({MAP.name!r})}}))
""")
    )


def test_plain_h5py_through_the_view(make, tmp_path):
    view = write_view(make(NAMES[7:], NAMES), tmp_path / "view.h5")
    found = run(f"""
import json, h5py
with h5py.File({str(view)!r}) as file:
    print(json.dumps({{"gap": file[{GAP.name!r}][:].tolist(), "map": file[{MAP.name!r}][:].tolist()}}))
""")
    check({name: rows[33:] + rows[:33] for name, rows in found.items()})


def test_h5py_reads_a_shard_that_was_lost_later_as_zeros_which_is_why_the_view_is_local(make, tmp_path):
    store = make(NAMES)
    view = write_view(store, tmp_path / "view.h5")
    shard = store / GAP.name / "c" / "0" / "0"
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data[:6])
    found = run(f"""
import json, h5py
with h5py.File({str(view)!r}) as file:
    print(json.dumps(file[{GAP.name!r}][:2].tolist()))
""")
    np.testing.assert_array_equal(found[0], values(NAMES[:1], GAP)[0].tolist())
    assert found[1] == [0.0, 0.0, 0.0]
