"""Train one network of one arm: its options turned into a plan and a recipe, and what it then says of samples."""

# N samples, K classes or labels, M numbers

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from embedpipe.errors import ConfigError
from embedpipe.evaluate.metrics import metric_of, point_metrics, sign_of
from embedpipe.manifest.kinds import TargetSpec, Truth
from embedpipe.progress import Progress, silent
from embedpipe.train.samples import Index, TaskSamples
from embedpipe.training import (
    L2SP,
    Checkpoints,
    History,
    Recipe,
    TrainingPlan,
    discriminative,
    find_precision,
    fit,
    gradual,
    surgical,
    two_phase,
    whole,
)
from embedpipe.training.policies import check_names
from embedpipe.training.trainer import Loss
from embedpipe.transfer.images import Augmentation, Images, LabelledImages, outputs_of
from embedpipe.transfer.live import BODY, HEAD, LiveModel
from embedpipe.transfer.options import TrainedOptions

Float = npt.NDArray[np.float32]
SCORE_BATCH = 256


@dataclass(frozen=True)
class Setting:
    """What all networks of a task share.

    Attributes
    ----------
    samples : TaskSamples
    images : Images
        Of the samples, in their order, as one backbone prepares them.
    by : str
        Metric that chooses.
    device : torch.device
    """

    samples: TaskSamples
    images: Images
    by: str
    device: torch.device

    def say(self, model: LiveModel, places: Index) -> Float:
        """Probabilities or numbers of samples, float32 [len(places), K]."""
        shown: Float = outputs_of(model.probabilities, self.images, places, self.device, SCORE_BATCH).numpy()
        return shown

    def judge(self, shown: Float, places: Index) -> dict[str, float]:
        """Metrics of what is said of labelled samples."""
        return point_metrics(self.samples.kind, self.samples.truth[places], shown, self.samples.spec.box)


def train_network(
    model: LiveModel,
    setting: Setting,
    labelled: Index,
    options: TrainedOptions,
    rate: float,
    generator: torch.Generator,
    *,
    input_shape: tuple[int, ...],
    by_validation: bool,
    checkpoints: Checkpoints | None = None,
    run: Mapping[str, Any] | None = None,
    where: str = "transfer",
    progress: Progress = silent,
) -> History:
    """Train a network in place on labelled samples.

    Parameters
    ----------
    model : LiveModel
        On the setting's device.
    labelled : int array
        Places of the training samples.
    rate : float
        One of the options' learning rates.
    by_validation : bool
        Whether validation chooses the epoch whose weights are kept; the last ones are otherwise.
    """
    samples = setting.samples
    truth = samples.truth[labelled]
    plan = plan_of(options, len(labelled), rate, setting.device, by_validation, where)
    recipe = recipe_of(options, model, plan.epochs, input_shape, where)
    metric = metric_of(samples.kind, setting.by, samples.spec.box)

    def score(scored: Any) -> float:
        shown = setting.say(scored, samples.val)
        return sign_of(metric) * setting.judge(shown, samples.val)[metric]

    return fit(
        model,
        LabelledImages(setting.images, labelled, targets_of(samples.spec, truth)),
        plan,
        loss_of(samples.spec, truth, options.label_smoothing),
        generator,
        score=score if by_validation else None,
        recipe=recipe,
        checkpoints=checkpoints,
        run=run,
        where=where,
        progress=progress,
    )


def plan_of(
    options: TrainedOptions, num: int, rate: float, device: torch.device, by_validation: bool, where: str
) -> TrainingPlan:
    """The plan of an arm on `num` samples: more epochs where they would make fewer steps than `min_steps`."""
    a_step = options.batch * options.accumulate
    epochs = max(options.epochs, math.ceil(options.min_steps / math.ceil(num / a_step)))
    return TrainingPlan(
        epochs=epochs,
        batch=options.batch,
        learning_rate=rate,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        warmup=options.warmup,
        optimiser=options.optimiser,
        momentum=options.momentum,
        clip_norm=options.clip_norm,
        accumulate=options.accumulate,
        precision=find_precision(options.precision, device, f"{where}.precision"),
        ema=options.ema,
        patience=options.patience if by_validation else None,
        keep="best" if by_validation else "last",
    )


def recipe_of(
    options: TrainedOptions, model: LiveModel, epochs: int, input_shape: tuple[int, ...], where: str
) -> Recipe:
    """What the options say of phases, rates, penalty, norms and augmentation, over this network's layers.

    Raises
    ------
    ConfigError
        If a layer does not exist, or the backbone has no blocks that rates or phases could follow.
    """
    blocks = [f"{model.trunk}.{name}" for name in model.blocks]
    top = [HEAD, *(f"{model.trunk}.{name}" for name in model.tail)]
    if (options.decay is not None or options.gradual) and not blocks:
        raise ConfigError(
            f"{where}: rates and phases by depth need a backbone with blocks, and this one has none up to the tap; "
            "name `layers` instead"
        )
    if options.layers is not None:
        check_names(model.get_submodule(model.trunk), options.layers, f"{where}.layers: up to its tap")
        phases = surgical(epochs, [HEAD, *(f"{model.trunk}.{name}" for name in options.layers)])
    elif options.gradual:
        phases = gradual(epochs, blocks, top)
    elif options.first is not None:
        phases = two_phase(epochs, [BODY], options.first, options.first_share)
    else:
        phases = whole(epochs)
    if options.decay is not None:
        rates = discriminative(blocks, top, options.decay)
        phases = tuple(dataclasses.replace(phase, rates=rates) for phase in phases)
    penalty = None
    if options.l2_sp is not None:
        new = [HEAD] if options.head == "new" else []
        penalty = L2SP(model.state_dict(), options.l2_sp, new)
    augment = None
    if options.augment:
        augment = Augmentation(options.augment, input_shape, f"{where}.augment")
    return Recipe(tuple(phases), penalty, augment, options.norms == "eval")


def loss_of(spec: TargetSpec, truth: Truth, label_smoothing: float) -> Loss:
    """Cross-entropy of classes, binary of each known label, squared error of numbers in units of their variance."""
    if spec.kind == "classes":
        return lambda outputs, codes: F.cross_entropy(outputs.float(), codes, label_smoothing=label_smoothing)
    if spec.kind == "multilabel":

        def of_labels(outputs_NK: torch.Tensor, labels_NK: torch.Tensor) -> torch.Tensor:
            known_NK = ~torch.isnan(labels_NK)
            wanted_NK = torch.where(known_NK, labels_NK, 0.0)
            each_NK = F.binary_cross_entropy_with_logits(outputs_NK.float(), wanted_NK, reduction="none")
            return (each_NK * known_NK).sum() / known_NK.sum().clamp(min=1)

        return of_labels
    variance = np.maximum(truth.reshape(len(truth), -1).var(axis=0), np.finfo(np.float32).tiny)
    scale_M = torch.tensor(variance, dtype=torch.float32)

    def of_numbers(outputs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        errors_NM = outputs.float().reshape(len(numbers), -1) - numbers.reshape(len(numbers), -1)
        return (errors_NM.square() / scale_M.to(errors_NM.device)).mean()

    return of_numbers


def targets_of(spec: TargetSpec, truth: Truth) -> torch.Tensor:
    """Truth as the loss takes it."""
    return torch.tensor(truth, dtype=torch.int64 if spec.is_coded else torch.float32)
