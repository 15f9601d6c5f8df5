"""A run that was killed goes on to the end of one that was not, bit for bit."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from embedpipe.errors import TrainingFailed, WeightsError
from embedpipe.training import (
    Checkpoints,
    Recipe,
    TensorSamples,
    TrainingPlan,
    deterministic,
    discriminative,
    fit,
    gradual,
    whole,
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing but what is on disk survives it."""


def jitter(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


PLANS = {
    "adamw": TrainingPlan(4, batch=8, learning_rate=0.02, weight_decay=0.1, schedule="cosine", warmup=0.1),
    "sgd": TrainingPlan(4, batch=8, learning_rate=0.05, optimiser="sgd", clip_norm=0.5, accumulate=2),
    "average": TrainingPlan(4, batch=8, learning_rate=0.02, ema=0.9, patience=3, keep="last"),
    "bfloat16": TrainingPlan(3, batch=8, learning_rate=0.02, precision="bfloat16"),
}


def run(plan, folder=None, *, dies_at=None, every_s=0.0, recipe=None, layers=8):
    """Train; `dies_at` steps in, if at all."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(52, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    taken = []

    def progress(done, total, what, detail=""):
        taken.append(done)
        if len(taken) == dies_at:
            raise Killed

    with deterministic(0) as order:
        module = nn.Sequential(nn.Linear(4, layers), nn.BatchNorm1d(layers), nn.ReLU(), nn.Dropout(0.3))
        module.append(nn.Linear(layers, 2))

        def score(module):
            return -float(F.cross_entropy(module(x), y))

        history = fit(
            module, TensorSamples(x, y), plan, F.cross_entropy, order, score=score,
            recipe=recipe or Recipe(augment=jitter),
            checkpoints=None if folder is None else Checkpoints(folder, every_s),
            run={"samples": "abc"}, progress=progress,
        )  # fmt: skip
    return module.state_dict(), history, len(taken)


@pytest.mark.parametrize("name", PLANS)
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(name, tmp_path):
    expected, told, num_steps = run(PLANS[name])
    for place, dies_at in enumerate((1, num_steps // 2, num_steps)):
        folder = tmp_path / str(place)
        with pytest.raises(Killed):
            run(PLANS[name], folder, dies_at=dies_at)
        found, history, more = run(PLANS[name], folder)
        assert history == told
        assert all(torch.equal(expected[key], found[key]) for key in expected)
        assert more < num_steps or dies_at == 1


def test_killed_again_and_again_it_still_ends_the_same(tmp_path):
    recipe = Recipe(gradual(4, ["0", "1"], ["4"]), augment=jitter)
    expected, told, num_steps = run(PLANS["adamw"], recipe=recipe)
    for _ in range(2 * num_steps):
        try:
            found, history, _ = run(PLANS["adamw"], tmp_path, dies_at=2, recipe=recipe)
            break
        except Killed:
            pass
    assert history == told and all(torch.equal(expected[key], found[key]) for key in expected)


def test_killed_before_the_first_save_it_starts_over_and_ends_the_same(tmp_path):
    expected, told, num_steps = run(PLANS["adamw"])
    with pytest.raises(Killed):
        run(PLANS["adamw"], tmp_path, dies_at=num_steps - 1, every_s=1e9)
    assert not list(tmp_path.iterdir())
    found, history, more = run(PLANS["adamw"], tmp_path, every_s=1e9)
    assert more == num_steps and history == told
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_finished_run_is_not_trained_again(tmp_path):
    expected, told, _ = run(PLANS["adamw"], tmp_path)
    found, history, more = run(PLANS["adamw"], tmp_path)
    assert more == 0 and history == told
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_checkpoints_are_safetensors_with_the_state_of_the_optimiser(tmp_path):
    run(PLANS["adamw"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]
    with safe_open(tmp_path / "last.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {
        "model/0.weight",
        "optimiser/0.weight/exp_avg",
        "optimiser/0.weight/step",
        "random/order",
    } <= names


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    run(PLANS["adamw"], tmp_path)
    with pytest.raises(
        WeightsError, match=r"another architecture: expected shape of 0\.bias \[9\], found \[8\]"
    ):
        run(PLANS["adamw"], tmp_path, layers=9)


def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(tmp_path):
    run(PLANS["adamw"], tmp_path)
    with pytest.raises(WeightsError, match="a checkpoint of another run: expected phases"):
        run(PLANS["adamw"], tmp_path, recipe=Recipe(whole(4, discriminative(["0"], ["4"], 0.5))))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "last.safetensors")
    with pytest.raises(WeightsError, match="expected a checkpoint of training, found something else"):
        run(PLANS["adamw"], tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_and_is_never_saved(tmp_path):
    plan = TrainingPlan(9, batch=8, learning_rate=1e30, optimiser="sgd")
    with pytest.raises(
        TrainingFailed, match=r"the loss is (nan|infinite) at step \d+ of epoch \d+ \(learning rate"
    ):
        run(plan, tmp_path)
    with safe_open(tmp_path / "last.safetensors", framework="pt") as file:
        assert torch.isfinite(file.get_tensor("model/0.weight")).all()


SCRIPT = """
    import sys
    sys.path.insert(0, {folder!r})
    from pathlib import Path
    import dataclasses
    import test_resuming as t
    plan = dataclasses.replace(t.PLANS["adamw"], epochs=400)
    print("started", flush=True)
    t.run(plan, Path({out!r}))
"""


@pytest.mark.slow
def test_sigkill_at_random_instants_changes_nothing(tmp_path):
    import dataclasses
    from pathlib import Path

    plan = dataclasses.replace(PLANS["adamw"], epochs=400)
    expected, told, _ = run(plan)
    script = textwrap.dedent(SCRIPT.format(folder=str(Path(__file__).parent), out=str(tmp_path)))
    kills = 0
    for wait in (0.2, 0.5, 0.9, 1.3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "started\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills >= 1
    found, history, _ = run(plan, tmp_path)
    assert history == told and all(torch.equal(expected[key], found[key]) for key in expected)
