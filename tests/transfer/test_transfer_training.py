"""What an arm's options mean for its training: steps, losses of every kind of target."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from embedpipe.manifest.kinds import TargetSpec
from embedpipe.transfer.arms import seed_of
from embedpipe.transfer.options import transfer_options
from embedpipe.transfer.training import loss_of, plan_of, targets_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(("num", "epochs"), [(50, 200), (640, 20), (6400, 20), (128, 100)])
def test_few_labels_make_more_epochs_so_that_there_are_steps_enough(num, epochs):
    options = transfer_options("full", {"epochs": 20, "min_steps": 200, "batch": 64})
    assert plan_of(options, num, 1e-3, CPU, False, "x").epochs == epochs


def test_only_validation_stops_early_and_keeps_the_best():
    options = transfer_options("full", {"patience": 3})
    by_validation, alone = (plan_of(options, 100, 1e-3, CPU, by, "x") for by in (True, False))
    assert (by_validation.patience, by_validation.keep) == (3, "best")
    assert (alone.patience, alone.keep) == (None, "last")


def test_labels_that_are_not_known_do_not_count():
    spec = TargetSpec("multilabel", ("a", "b"))
    truth = np.array([[1.0, np.nan], [0.0, 1.0]])
    outputs = torch.tensor([[0.3, 9.0], [-1.0, 2.0]], requires_grad=True)
    value = loss_of(spec, truth, 0.0)(outputs, targets_of(spec, truth))
    known = F.binary_cross_entropy_with_logits(torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.0, 1.0]))
    assert value.item() == pytest.approx(known.item())
    value.backward()
    assert outputs.grad[0, 1] == 0 and torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_loss_of_numbers_has_no_unit(scale):
    spec = TargetSpec("number", outputs=("x", "y"))
    truth = scale * np.array([[0.0, 5.0], [2.0, 9.0], [4.0, 1.0]])
    mean = torch.tensor(truth.mean(axis=0), dtype=torch.float32).expand(3, 2)
    assert loss_of(spec, truth, 0.0)(mean, targets_of(spec, truth)).item() == pytest.approx(1.0, rel=1e-5)


def test_classes_are_cross_entropy_with_the_smoothing_asked_for():
    spec, truth = TargetSpec("classes", ("a", "b")), np.array([0, 1])
    outputs = torch.tensor([[2.0, 0.0], [0.5, 1.0]])
    found = loss_of(spec, truth, 0.1)(outputs, targets_of(spec, truth))
    assert found == F.cross_entropy(outputs, torch.tensor([0, 1]), label_smoothing=0.1)


def test_arms_at_the_same_labels_share_a_seed_and_draws_do_not():
    assert seed_of(0, 5, 1) == seed_of(0, 5, 1)
    assert len({seed_of(seed, k, draw) for seed in (0, 1) for k in (0, 5) for draw in (0, 1)}) == 8
