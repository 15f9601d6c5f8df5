"""What one step is made of: batches put together, gradients clipped, several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from embedpipe.errors import ConfigError, DataError
from embedpipe.training import (
    Recipe,
    TensorSamples,
    TrainingPlan,
    check_codes,
    deterministic,
    find_device,
    find_precision,
    fit,
)


def trained(plan, num=30, recipe=None):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(num, 4, generator=generator)
    with deterministic(0) as order:
        module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        history = fit(
            module, TensorSamples(x, (x[:, 0] > 0).long()), plan, F.cross_entropy, order, recipe=recipe
        )
    return module.state_dict(), history


def test_batches_put_together_step_as_one_of_their_size():
    whole, told = trained(TrainingPlan(3, batch=16, learning_rate=0.05, optimiser="sgd"))
    parts, history = trained(TrainingPlan(3, batch=4, accumulate=4, learning_rate=0.05, optimiser="sgd"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-7)
    assert history.losses == pytest.approx(told.losses, rel=1e-5)


def test_clipped_gradients_have_the_given_norm():
    plan = TrainingPlan(
        1, batch=30, learning_rate=1.0, optimiser="sgd", momentum=0.0, clip_norm=0.01, keep="last"
    )
    with deterministic(0):
        before = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).state_dict()
    after, _ = trained(plan)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in after])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_an_empty_set_of_samples_is_refused():
    class Nothing:
        def __len__(self):
            return 0

    with pytest.raises(DataError, match="loader: expected at least one training sample, found none"):
        fit(nn.Linear(1, 1), Nothing(), TrainingPlan(1), F.mse_loss, torch.Generator(), where="loader")


def test_labels_outside_the_classes_are_named():
    with pytest.raises(DataError, match="expected labels of 0 to 2, found 3 at sample 1 and 1 more outside"):
        check_codes(torch.tensor([0, 3, 2, -1]), 3, "train")
    with pytest.raises(DataError, match=r"expected class codes, whole numbers, found torch\.float32"):
        check_codes(torch.tensor([0.0]), 3, "train")
    check_codes(torch.tensor([0, 2]), 3, "train")


def test_the_device_and_precision_never_change_silently():
    assert find_precision("auto", torch.device("cpu")) == "float32"
    with pytest.raises(
        ConfigError, match=r"x\.precision: expected bfloat16 or float32 on cpu, found float16"
    ):
        find_precision("float16", torch.device("cpu"), "x.precision")
    with pytest.raises(ConfigError, match="expected auto, cpu or cuda, found 'gpu0'"):
        find_device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="expected a CUDA device, found none"):
            find_device("cuda")


WORKER = """
import os, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from embedpipe.training import Checkpoints, TensorSamples, TrainingPlan, deterministic, fit, torchrun

out, dies_at = Path(sys.argv[1]), int(sys.argv[2])
x = torch.randn(31, 4, generator=torch.Generator().manual_seed(2))
taken = []

def progress(done, total, what, detail=""):
    taken.append(done)
    if len(taken) == dies_at:
        os._exit(9)

with torchrun(torch.device("cpu")) as (world, device), deterministic(0) as order:
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6).eval(), nn.Tanh(), nn.Linear(6, 2))
    module[1].requires_grad_(False)
    plan = TrainingPlan(3, batch=10, accumulate=2, learning_rate=0.05, weight_decay=0.1, clip_norm=1.0)
    scored = []
    def score(module):
        scored.append(world.rank)
        return -float(F.cross_entropy(module(x), (x[:, 0] > 0).long()))
    from embedpipe.training import Recipe
    fit(module, TensorSamples(x, (x[:, 0] > 0).long()), plan, F.cross_entropy, order, score=score,
        recipe=Recipe(eval_norms=True), checkpoints=Checkpoints(out / "run", 0.0), progress=progress)
    assert set(scored) <= {0}
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, out / f"{world.size}.{world.rank}")
"""


def run_workers(script: Path, out: Path, num: int, dies_at: int = 0) -> list[int]:
    """As torchrun starts them: the rendezvous and the ranks in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(exist_ok=True)
    started = []
    for rank in range(num):
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
        environment = {**os.environ, **{name: str(value) for name, value in given.items()}}
        arguments = [sys.executable, str(script), str(out), str(dies_at)]
        started.append(subprocess.Popen(arguments, env=environment))
    return [process.wait(timeout=120) for process in started]


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_agree_to_the_bit(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    assert run_workers(script, tmp_path / "one", 1) == [0]
    assert run_workers(script, tmp_path / "two", 2) == [0, 0]
    first, second = load_file(tmp_path / "two" / "2.0"), load_file(tmp_path / "two" / "2.1")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    alone = load_file(tmp_path / "one" / "1.0")
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)
    # killed after a step of the second epoch and started again, both end where they would have
    assert run_workers(script, tmp_path / "killed", 2, dies_at=3) == [9, 9]
    assert run_workers(script, tmp_path / "killed", 2) == [0, 0]
    again = load_file(tmp_path / "killed" / "2.0")
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_recipes_without_phases_train_everything():
    assert all(torch.isfinite(value).all() for value in trained(TrainingPlan(1), recipe=Recipe())[0].values())
