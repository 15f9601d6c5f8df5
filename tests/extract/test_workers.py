"""Which dask workers are started on a machine and which of them compute, with GPUs that need not be there."""

import os
import subprocess
import sys

import pytest

from embedpipe.errors import ConfigError
from embedpipe.extract.workers import (
    num_computing,
    open_client,
    visible_gpus,
    wanted_resources,
    worker_options,
)

GPU_WORKER, CPU_WORKER = {"resources": {"GPU": 1}}, {"resources": {}}


def test_gpus_are_those_that_the_process_may_use():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-5f"}) == ["2", "GPU-5f"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_several_gpus_of_a_machine_get_one_worker_each():
    options = worker_options("auto", "cuda", ["0", "1", "3"])
    assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in options] == ["0", "1", "3"]
    assert all(one["resources"] == {"GPU": 1} and one["nthreads"] == 1 for one in options)
    assert len(worker_options(2, "cuda", ["0", "1", "3"])) == 2


def test_two_models_on_one_gpu_are_refused():
    with pytest.raises(ConfigError, match=r"at most one worker a GPU, found 3 for 2 \(0, 1\); lower it"):
        worker_options(3, "cuda", ["0", "1"])


def test_workers_on_the_cpu_declare_nothing():
    assert len(worker_options("auto", "cpu", [])) == 2
    assert all("resources" not in one and "env" not in one for one in worker_options(3, "cpu", ["0"]))


def test_blocks_for_a_gpu_go_to_workers_that_declare_one():
    both = {"a": GPU_WORKER, "b": CPU_WORKER}
    assert wanted_resources("cuda", both) == {"GPU": 1}
    assert num_computing({"GPU": 1}, both) == 1
    assert wanted_resources("cuda", {"b": CPU_WORKER}) is None, "a worker that declares nothing may have one"
    assert wanted_resources("cpu", both) is None
    assert num_computing(None, both) == 2


def device_and_resources(dask_worker):
    return os.environ.get("CUDA_VISIBLE_DEVICES"), dict(dask_worker.state.available_resources)


@pytest.mark.slow
def test_each_worker_process_sees_its_own_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with open_client(None, "auto", "cuda") as client:
        client.wait_for_workers(2, timeout=60)
        found = sorted(client.run(device_and_resources).values())
        assert found == [("4", {"GPU": 1}), ("6", {"GPU": 1})]
        asked = wanted_resources("cuda", client.scheduler_info(n_workers=-1)["workers"])
        pids = client.gather(client.map(lambda i: os.getpid(), range(4), pure=False, resources=asked))
        assert len(set(pids)) <= 2 and os.getpid() not in pids


FAULTS = """
import resource, torch
from embedpipe.allocator import keep_memory
kept = keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, [faults() for _ in range(16)][-1])  # the first few find their places in the heap
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_memory_of_large_tensors_is_kept_for_the_next_batch():
    printed = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    ).stdout
    kept, num_faults = printed.split()
    if kept == "False":
        pytest.skip("this C library has no such setting")
    assert int(num_faults) < 1000, "64 MB are 16,384 pages"
