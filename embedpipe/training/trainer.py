"""The one training loop: what a plan and its phases say, step by step, on one device or in several processes.

Takes a module and samples; leaves the module with the best weights it had, or the last. Policies, penalties and
averages are values that it is given; no decisions about data, models or files are made here.
"""

# N samples, B of a batch

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from embedpipe.errors import ConfigError, DataError, TrainingFailed
from embedpipe.progress import Progress, silent
from embedpipe.training import processes
from embedpipe.training.averaging import RunningAverage, State, copied
from embedpipe.training.checkpoints import Checkpoints, check_same_run
from embedpipe.training.history import History
from embedpipe.training.optimisers import make_optimiser, restore_state, set_rates, state_of
from embedpipe.training.penalties import Penalty
from embedpipe.training.plan import TrainingPlan, batch_bounds, share_of_rate
from embedpipe.training.policies import Phase, check_names
from embedpipe.training.samples import Samples, to_device

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
Score = Callable[[nn.Module], float]
Augment = Callable[[Any, torch.Generator], Any]
Bounds = tuple[int, int]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CHECK_EVERY = 20
"""Steps between looks at the loss on a GPU, which has to be waited for."""


@dataclass(frozen=True)
class Recipe:
    """What makes one way of training differ from another, beside the plan.

    Attributes
    ----------
    phases : tuple of Phase
        What learns when; empty: everything, for the plan's epochs.
    penalty : Penalty or None
        Added to the loss at each step.
    augment : callable or None
        From (inputs, generator) to inputs of the same shape.
    eval_norms : bool
        Whether batch norms stay in eval mode, so that their statistics do not move.
    """

    phases: tuple[Phase, ...] = ()
    penalty: Penalty | None = None
    augment: Augment | None = None
    eval_norms: bool = False


def fit(
    module: nn.Module,
    samples: Samples,
    plan: TrainingPlan,
    loss: Loss,
    generator: torch.Generator,
    *,
    score: Score | None = None,
    recipe: Recipe | None = None,
    checkpoints: Checkpoints | None = None,
    run: Mapping[str, Any] | None = None,
    where: str = "training",
    progress: Progress = silent,
) -> History:
    """Train a module in place, and leave it in eval mode with the weights that the plan keeps.

    Parameters
    ----------
    module : nn.Module
        On the device that it is to be trained on. Parameters that need no gradient are never trained.
    samples : Samples
        At least one.
    plan : TrainingPlan
    loss : callable
        From (outputs, targets) of a batch to their mean, a scalar.
    generator : torch.Generator
        On the CPU; decides the order of samples and the augmentation. Dropout and initialisation come from
        torch's global one: run inside `deterministic`.
    score : callable, optional
        From the module in eval mode, without gradients, to a number; higher is better. Without it the
        training loss decides. In several processes the first one's counts.
    recipe : Recipe, optional
    checkpoints : Checkpoints, optional
        Where the state is kept; what is found there is gone on from, to the same end, bit for bit.
    run : mapping, optional
        JSON values that say what the run is of, such as digests of samples and starting weights: a checkpoint of
        another run is refused.
    where : str
        How the user finds the run; errors start with it.
    progress : Progress
        Told after each step, in samples.

    Raises
    ------
    DataError
        If there are no samples.
    ConfigError
        If a phase names a layer that does not exist, or nothing learns in it.
    WeightsError
        If a checkpoint is damaged, or of another run or architecture.
    TrainingFailed
        If the loss is no longer finite.
    """
    if len(samples) == 0:
        raise DataError(f"{where}: expected at least one training sample, found none; give it some")
    recipe = recipe or Recipe()
    recipe = dataclasses.replace(recipe, phases=recipe.phases or (Phase(plan.epochs),))
    for phase in recipe.phases:
        check_names(module, [name for name in (*phase.trained, *phase.rates) if name], where)
    trainer = _Trainer(module, samples, plan, loss, generator, score, recipe, where)
    return trainer.train(checkpoints, run or {}, progress)


class _Trainer:
    """One run: its optimiser, how far it is, and what it has to keep."""

    def __init__(
        self,
        module: nn.Module,
        samples: Samples,
        plan: TrainingPlan,
        loss: Loss,
        generator: torch.Generator,
        score: Score | None,
        recipe: Recipe,
        where: str,
    ) -> None:
        self.module, self.samples, self.plan, self.loss = module, samples, plan, loss
        self.generator, self.score, self.recipe, self.where = generator, score, recipe, where
        self.world = processes.world()
        first = next(module.parameters(), None)
        self.device = first.device if first is not None else torch.device("cpu")
        self.parameters = {n: v for n, v in module.named_parameters() if v.requires_grad}
        self.optimiser = make_optimiser(plan, recipe.phases, self.parameters, recipe.penalty)
        self.average = RunningAverage(module, plan.ema) if plan.ema is not None else None
        scaled = plan.precision == "float16" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.groups = _grouped(batch_bounds(len(samples), plan.batch), plan.accumulate)
        self.num_epochs = sum(phase.epochs for phase in recipe.phases)
        self.history = History()
        self.best: State = copied(module)
        self.is_best_saved = True
        self.epoch = self.step = 0
        self.order = torch.empty(0, dtype=torch.int64)
        self.total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.augmenter = generator
        self.reader = ThreadPoolExecutor(1)
        if self.world.size > 1:  # each process augments and drops out its own samples
            torch.manual_seed(torch.initial_seed() + self.world.rank)
            self.augmenter = torch.Generator().manual_seed(generator.initial_seed() + 1 + self.world.rank)

    def train(self, checkpoints: Checkpoints | None, run: Mapping[str, Any], progress: Progress) -> History:
        """From the start, or from where the checkpoint stands, to the end."""
        about = {**self._about(), **run}
        if checkpoints is not None:
            self._resume(checkpoints, about)
        try:
            phase_now = -1
            forward: nn.Module = self.module
            while self.epoch < self.num_epochs and not self._has_stopped:
                phase, first_epoch = self._phase_at(self.epoch)
                if phase != phase_now:
                    phase_now = phase
                    self._enter(self.recipe.phases[phase])
                    forward = processes.spread(self.module, self.device)
                self._set_modes(self.recipe.phases[phase])
                self._epoch(forward, phase, first_epoch, checkpoints, about, progress)
                self._close_epoch()
                is_over = self.epoch == self.num_epochs or self._has_stopped
                if checkpoints is not None and (is_over or self._is_due(checkpoints)):
                    self._save(checkpoints, about)
            if self.plan.keep == "best":
                self.module.load_state_dict(self.best)
            elif self.average is not None:
                self.module.load_state_dict(self.average.state)
            processes.same_state(self.module)
        finally:
            self.reader.shutdown()
            for value in self.parameters.values():
                value.requires_grad_(True)
            self.module.zero_grad(set_to_none=True)
            self.module.eval()
        return self.history

    @property
    def _has_stopped(self) -> bool:
        waited = self.epoch - self.history.best_epoch
        return self.plan.patience is not None and self.epoch > 0 and waited >= self.plan.patience

    def _phase_at(self, epoch: int) -> tuple[int, int]:
        """Place of an epoch's phase, and the epoch that it began with."""
        start = 0
        for place, phase in enumerate(self.recipe.phases):
            if epoch < start + phase.epochs:
                return place, start
            start += phase.epochs
        raise AssertionError(epoch)

    def _enter(self, phase: Phase) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        for name, value in self.parameters.items():
            value.requires_grad_(phase.trains(name))
        if not any(value.requires_grad for value in self.parameters.values()):
            raise ConfigError(
                f"{self.where}: nothing learns in a phase that trains {', '.join(phase.trained) or 'no layer'}: "
                "name a layer with weights"
            )

    def _set_modes(self, phase: Phase) -> None:
        """What learns is in training mode; what is frozen, and norms where they are to stay, in eval mode."""
        for name, part in self.module.named_modules():
            is_norm = isinstance(part, nn.modules.batchnorm._BatchNorm)
            part.training = phase.trains(name) and not (is_norm and self.recipe.eval_norms)

    def _epoch(
        self,
        forward: nn.Module,
        phase: int,
        first_epoch: int,
        checkpoints: Checkpoints | None,
        about: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        """The steps that an epoch still lacks."""
        num, num_steps = len(self.samples), len(self.groups)
        if self.step == 0:
            self.order = torch.randperm(num, generator=self.generator)
            self.total.zero_()
        in_phase = self.recipe.phases[phase].epochs * num_steps
        batches = self._batches()
        for group in self.groups[self.step :]:
            done = (self.epoch - first_epoch) * num_steps + self.step
            rate = self.plan.learning_rate * share_of_rate(self.plan, done, in_phase)
            set_rates(self.optimiser, rate, phase)
            self._step(forward, group, batches)
            self.step += 1
            if self.device.type == "cpu" or self.step % _CHECK_EVERY == 0 or self.step == num_steps:
                self._check_loss(rate)
            progress(self.epoch * num + group[-1][1], self.num_epochs * num, "samples")
            if checkpoints is not None and self.step < num_steps and self._is_due(checkpoints):
                self._save(checkpoints, about)
        self.history.rates.append(rate)

    def _batches(self) -> Iterator[tuple[Any, torch.Tensor, float]]:
        """Inputs, targets and weight of this process's part of each batch, read one ahead."""
        parts = []
        for start, stop in (bounds for group in self.groups[self.step :] for bounds in group):
            mine = self.order[start:stop][self.world.rank :: self.world.size]
            weight = len(mine) * self.world.size / (stop - start)
            # a process without a sample still takes part in the step
            parts.append((mine if len(mine) else self.order[start : start + 1], weight))
        ahead = self.reader.submit(self.samples.batch, parts[0][0])
        for place, (_, weight) in enumerate(parts):
            inputs, targets = ahead.result()
            if place + 1 < len(parts):
                ahead = self.reader.submit(self.samples.batch, parts[place + 1][0])
            yield inputs, targets, weight

    def _step(
        self,
        forward: nn.Module,
        group: Sequence[Bounds],
        batches: Iterator[tuple[Any, torch.Tensor, float]],
    ) -> None:
        """One step of the optimiser, over one batch or several."""
        num_in_step = group[-1][1] - group[0][0]
        self.optimiser.zero_grad(set_to_none=True)
        for start, stop in group:
            is_last = stop == group[-1][1]
            inputs, targets, weight = next(batches)
            inputs, targets = to_device(inputs, self.device), to_device(targets, self.device)
            if self.recipe.augment is not None:
                inputs = self.recipe.augment(inputs, self.augmenter)
            with nullcontext() if is_last else _without_exchange(forward):
                with self._arithmetic():
                    value = self.loss(forward(inputs), targets)
                self.total += value.detach().double() * (weight * (stop - start) / self.world.size)
                share = weight * (stop - start) / num_in_step
                value = value if share == 1.0 else value * share
                if is_last and self.recipe.penalty is not None:
                    value = value + self.recipe.penalty(self.module)
                self.scaler.scale(value).backward()  # type: ignore[no-untyped-call, unused-ignore]
        if self.plan.clip_norm is not None:
            self.scaler.unscale_(self.optimiser)
            learning = [value for value in self.parameters.values() if value.grad is not None]
            nn.utils.clip_grad_norm_(learning, self.plan.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.module)

    def _arithmetic(self) -> AbstractContextManager[object]:
        dtype = _DTYPES[self.plan.precision]
        if dtype is not torch.float32:
            return torch.autocast(self.device.type, dtype=dtype)
        if self.device.type == "cuda":  # float32 means it
            return torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
        return nullcontext()

    def _check_loss(self, rate: float) -> None:
        total = float(processes.summed(self.total.clone()))
        if not math.isfinite(total):
            raise TrainingFailed(
                f"{self.where}: the loss is {'nan' if math.isnan(total) else 'infinite'} at step {self.step} of "
                f"epoch {self.epoch + 1} (learning rate {rate:.3g}); lower learning_rate, set clip_norm, or look "
                "for values in the samples that are not finite"
            )

    def _close_epoch(self) -> None:
        """Score the epoch, and keep its weights if they are the best."""
        history = self.history
        total = float(processes.summed(self.total.clone()))
        history.losses.append(total / len(self.samples))
        self.module.eval()
        trained = copied(self.module) if self.average is not None else None
        if self.average is not None:
            self.module.load_state_dict(self.average.state)
        found = -history.losses[-1]
        if self.score is not None:
            found = math.nan
            if self.world.is_first:
                with torch.no_grad(), self._arithmetic():
                    found = float(self.score(self.module))
            found = processes.agreed(found, self.device)
        history.scores.append(found)
        self.epoch, self.step = self.epoch + 1, 0
        if found > history.best_score + (self.plan.min_gain if history.best_epoch else 0.0):
            history.best_epoch = self.epoch
            self.best = copied(self.module)
            self.is_best_saved = False
        if trained is not None:
            self.module.load_state_dict(trained)

    def _about(self) -> dict[str, Any]:
        """What a checkpoint has to agree with."""
        return {
            "plan": dataclasses.asdict(self.plan),
            "phases": [
                dataclasses.asdict(one) | {"trained": list(one.trained)} for one in self.recipe.phases
            ],
            "tensors": {name: list(value.shape) for name, value in self.module.state_dict().items()},
            "num_samples": len(self.samples),
            "processes": self.world.size,
        }

    def _is_due(self, checkpoints: Checkpoints) -> bool:
        """All processes save together, when the first one's clock says so."""
        return bool(processes.agreed(float(checkpoints.is_due), self.device))

    def _save(self, checkpoints: Checkpoints, about: Mapping[str, Any]) -> None:
        tensors = {f"model/{name}": value for name, value in self.module.state_dict().items()}
        kept = state_of(self.optimiser, self.parameters)
        tensors |= {f"optimiser/{name}": value for name, value in kept.items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.state.items()}
        if self.step:
            tensors["order"] = self.order
        tensors["random/order"] = self.generator.get_state()
        for name, own in self._random_states().items():
            for rank, one in enumerate(processes.gathered(own)):
                tensors[f"random/{name}/{rank}"] = one
        total = processes.summed(self.total.clone())
        if self.world.is_first:
            if not self.is_best_saved:  # before the state that counts on them
                checkpoints.save_best(self.best, {"epoch": self.history.best_epoch})
            state = {
                "about": about,
                "epoch": self.epoch,
                "step": self.step,
                "total": float(total),
                "history": self.history.to_dict(),
                "scaler": self.scaler.state_dict(),
                "num_updates": self.average.num_updates if self.average is not None else 0,
            }
            checkpoints.save(tensors, state)
        self.is_best_saved = True
        processes.wait_for_all()

    def _resume(self, checkpoints: Checkpoints, about: Mapping[str, Any]) -> None:
        found = checkpoints.load()
        processes.wait_for_all()
        if found is None:
            return
        tensors, state = found
        check_same_run(about, state["about"], checkpoints.folder)
        self.module.load_state_dict(_below(tensors, "model/"))
        restore_state(self.optimiser, self.parameters, _below(tensors, "optimiser/"))
        if self.average is not None:
            for name, value in _below(tensors, "average/").items():
                self.average.state[name].copy_(value)
            self.average.num_updates = state["num_updates"]
        self.generator.set_state(tensors["random/order"])
        torch.set_rng_state(tensors[f"random/global/{self.world.rank}"])
        if self.augmenter is not self.generator:
            self.augmenter.set_state(tensors[f"random/augment/{self.world.rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"random/cuda/{self.world.rank}"], self.device)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.order = tensors.get("order", self.order)
        # the first process has the sum of all; what the others had is in it
        self.total.fill_(state["total"] if self.world.is_first else 0.0)
        self.history = History.from_dict(state["history"])
        if self.history.best_epoch:
            best = checkpoints.load_best()
            self.best = {name: best[name].to(value.device) for name, value in self.best.items()}

    def _random_states(self) -> dict[str, torch.Tensor]:
        """States of this process's own generators, those that the run draws from."""
        states = {"global": torch.get_rng_state()}
        if self.augmenter is not self.generator:
            states["augment"] = self.augmenter.get_state()
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states


def _grouped(bounds: Sequence[Bounds], accumulate: int) -> list[list[Bounds]]:
    """Batches of each step."""
    return [list(bounds[start : start + accumulate]) for start in range(0, len(bounds), accumulate)]


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _without_exchange(forward: nn.Module) -> AbstractContextManager[object]:
    """Gradients of all but the last batch of a step stay in their process."""
    if not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[object] = forward.no_sync()
    return context
