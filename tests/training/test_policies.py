"""What learns when, and how fast: arithmetic on names, and that the trainer does as it says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from embedpipe.errors import ConfigError
from embedpipe.training import (
    Phase,
    Recipe,
    TensorSamples,
    TrainingPlan,
    deterministic,
    discriminative,
    fit,
    gradual,
    surgical,
    two_phase,
    whole,
)

BLOCKS = ("block1", "block2", "block3")


class Tiny(nn.Module):
    """Three blocks with batch norms, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 5)
        for number in (1, 2, 3):
            block = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.1))
            self.add_module(f"block{number}", block)
        self.head = nn.Linear(5, 3)

    def forward(self, x_ND):
        return self.head(self.block3(self.block2(self.block1(self.stem(x_ND)))))


def samples(num=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num, 4, generator=generator)
    return TensorSamples(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def trained(recipe, plan=None, seed=0, **more):
    with deterministic(seed) as generator:
        module = Tiny()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        plan = plan or TrainingPlan(2, batch=8, learning_rate=0.05, weight_decay=0.1)
        fit(module, samples(), plan, F.cross_entropy, generator, recipe=recipe, **more)
    return before, module.state_dict()


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_what_is_frozen_stays_bit_identical_with_the_buffers_of_its_norms(optimiser):
    plan = TrainingPlan(3, batch=8, learning_rate=0.05, weight_decay=0.1, optimiser=optimiser)
    before, after = trained(Recipe(surgical(3, ["block2", "head"])), plan)
    assert moved(before, after) == {name for name in before if name.startswith(("block2.", "head."))}


def test_norms_in_eval_mode_keep_their_statistics_and_learn_their_weights():
    before, after = trained(Recipe(whole(2), eval_norms=True))
    still = {name for name in before if "running" in name or "num_batches" in name}
    assert still and moved(before, after) == set(before) - still


def test_gradual_unfreezing_goes_from_the_head_down_and_ends_with_everything():
    phases = gradual(9, BLOCKS, ["head"])
    assert [phase.trained for phase in phases] == [
        ("head",),
        ("head", "block3"),
        ("head", "block2", "block3"),
        ("",),
    ]
    assert [phase.epochs for phase in phases] == [2, 2, 2, 3]
    assert sum(phase.epochs for phase in gradual(2, BLOCKS, ["head"])) == 2


def test_each_phase_of_gradual_unfreezing_moves_no_block_below_it():
    phases = gradual(4, BLOCKS, ["head"])
    for num in range(1, 4):
        before, after = trained(Recipe(phases[:num]), TrainingPlan(1, batch=8, learning_rate=0.05))
        learnt = ("head", *BLOCKS[4 - num :])
        assert moved(before, after) == {name for name in before if name.split(".")[0] in learnt}


def test_rates_fall_by_depth_exactly():
    rates = discriminative(BLOCKS, ["head"], 0.5)
    phase = Phase(1, rates=rates)
    found = {name: phase.factor(name) for name, _ in Tiny().named_parameters()}
    by_part = {name.split(".")[0]: factor for name, factor in found.items()}
    assert by_part == {"stem": 1 / 16, "block1": 1 / 8, "block2": 1 / 4, "block3": 1 / 2, "head": 1.0}


def steps_taken(recipe, plan):
    """The learning rate of every parameter at every step, as the optimiser has it."""
    taken = []

    def note(optimiser, args, kwargs):
        learning = {
            name: group["lr"]
            for group in optimiser.param_groups
            for name, value in zip(group["names"], group["params"], strict=True)
            if value.grad is not None
        }
        taken.append(learning)

    hook = register_optimizer_step_pre_hook(note)
    try:
        trained(recipe, plan)
    finally:
        hook.remove()
    return taken


def test_the_optimiser_has_the_rate_of_each_group_at_each_step():
    plan = TrainingPlan(1, batch=8, learning_rate=0.1, schedule="cosine", warmup=0.5)
    taken = steps_taken(Recipe(whole(2, discriminative(BLOCKS, ["head"], 0.5))), plan)
    shares = [1 / 3, 2 / 3, 1.0]  # half of six steps rise; then the cosine begins at its top
    for step, share in enumerate(shares):
        assert taken[step]["head.weight"] == pytest.approx(0.1 * share, rel=1e-12)
        assert taken[step]["stem.bias"] == pytest.approx(0.1 * share / 16, rel=1e-12)
        assert taken[step]["block2.1.weight"] == pytest.approx(0.1 * share / 4, rel=1e-12)
    assert taken[3]["head.weight"] == pytest.approx(0.1)
    assert taken[5]["head.weight"] < taken[4]["head.weight"] < 0.1


def test_two_phases_are_the_source_at_a_small_rate_and_then_the_whole():
    plan = TrainingPlan(4, batch=24, learning_rate=0.1)
    source = ["stem", *BLOCKS]
    taken = steps_taken(Recipe(two_phase(4, source, 0.1, 0.5)), plan)
    assert ["head.weight" in step for step in taken] == [False, False, True, True]
    assert [round(step["block1.0.weight"], 12) for step in taken] == [0.01, 0.01, 0.1, 0.1]
    assert two_phase(1, source, 0.1, 0.5) == (Phase(1),)


def test_a_layer_that_does_not_exist_is_refused_with_near_names():
    with pytest.raises(ConfigError, match=r"arm x: the model has no layer 'blok2'; near names: .*block2"):
        trained(Recipe(surgical(1, ["blok2"])), where="arm x")


def test_a_phase_in_which_nothing_learns_is_refused():
    with pytest.raises(ConfigError, match=r"nothing learns in a phase that trains block1\.2"):
        trained(Recipe((Phase(1, ("block1.2",)),)))


def test_parameters_that_need_no_gradient_are_never_trained():
    with deterministic(0) as generator:
        module = Tiny()
        module.stem.requires_grad_(False)
        before = module.stem.weight.clone()
        fit(module, samples(), TrainingPlan(1, batch=8), F.cross_entropy, generator)
    assert torch.equal(module.stem.weight, before) and not module.stem.weight.requires_grad
