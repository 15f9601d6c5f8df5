"""Train a stack of networks of one shape together: one set of batches, parameters along a leading axis.

Batches come out of a permutation of all rows, by `gather`: the shuffle is global wherever the rows lie, and the
same to the bit out of core and in memory. Each member has its own learning rate, decay, dropout, stopping and
best weights, and leaves the stack when it has stopped. Knows arrays, networks and losses: nothing of heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from embedpipe.allocator import keep_memory
from embedpipe.heads.losses import LossName, Wanted, errors, losses, wanted_of
from embedpipe.heads.nets import Dropout, Net
from embedpipe.heads.optimisers import OPTIMISERS
from embedpipe.heads.rows import MEMORY_NBYTES, ArrayRows, Rows, nbytes_of

if TYPE_CHECKING:
    import torch

    from embedpipe.heads.nets import Params

# N rows, B rows of a batch, G members, K outputs

Stopped = Literal["patience", "schedule", "epochs", "diverged"]
CHUNK_NBYTES = 32 << 20
"""Features gathered at a time: several batches, since a read on disk costs a seek."""
CHUNK_IN_MEMORY = 2 << 20
"""The same of rows that lie in memory: what is gathered stays in the cache until it is used."""
KEPT_NBYTES = 256 << 20
"""Validation features up to this many bytes are kept between epochs."""
KEPT_BETWEEN_STEPS = 32 << 20
"""What a step computes is kept for the next up to this many bytes a tensor; features themselves are given back."""
VALIDATION_ROWS = 1024
"""Rows judged at a time: every member's hidden units of them are in memory."""


@dataclass(frozen=True)
class Recipe:
    """What members of a stack may differ in."""

    lr: float
    weight_decay: float
    dropout: float = 0.0


@dataclass(frozen=True)
class Course:
    """What members of a stack have in common.

    Attributes
    ----------
    optimiser : str
        ``adamw`` or ``sgd``.
    schedule : str
        ``constant`` learning rates, or ``cosine``: down to 0 after `epochs`.
    epochs : int
        Most passes over the training rows.
    patience : int or None
        Passes without a lower validation loss after which a member stops; None never stops one early.
    batch : int
        Rows a step.
    seed : int
        All members begin with the same weights and see the same batches, so that a member's fit does not
        depend on which others are trained beside it.
    """

    optimiser: str
    schedule: str
    epochs: int
    patience: int | None
    batch: int
    seed: int


@dataclass(frozen=True)
class Sampled:
    """Rows with their targets, read through a scaling.

    Attributes
    ----------
    rows : Rows
    y : array
        As `losses.wanted_of` takes it.
    weight : float array or None, shape (N,)
    mean, scale : float64 arrays
        Of the shape of a row, or broadcast against it.
    is_scaled : bool
        Whether the rows are scaled float32 already.
    """

    rows: Rows
    y: np.ndarray
    weight: np.ndarray | None
    mean: np.ndarray
    scale: np.ndarray
    is_scaled: bool = False

    def scaled(self, block: np.ndarray) -> torch.Tensor:
        """A block of rows, float32."""
        import torch

        if self.is_scaled:
            return torch.from_numpy(block)
        shifted = block - self.mean.astype(block.dtype)
        shifted /= self.scale.astype(block.dtype)
        return torch.from_numpy(shifted.astype(np.float32, copy=False))

    def wanted(self, index: np.ndarray | slice, loss: LossName, num_outputs: int) -> Wanted:
        """Targets of the rows at `index`."""
        weight = None if self.weight is None else self.weight[index]
        return wanted_of(loss, self.y[index], weight, num_outputs)


@dataclass(frozen=True)
class Fitted:
    """One trained member: float32 parameters of its best epoch, and how training went.

    Attributes
    ----------
    params : dict of arrays
    num_epochs, best_epoch : int
        `best_epoch` is 0 where no epoch was finite: the parameters are those it began with.
    loss : float
        On validation rows at the best epoch; NaN without them.
    stopped : str
        ``patience``; ``schedule``: its learning rate came down to 0; ``epochs`` ran out before patience did;
        ``diverged``: its loss was no longer finite.
    """

    params: dict[str, np.ndarray]
    num_epochs: int
    best_epoch: int
    loss: float
    stopped: Stopped


def train_stack(
    net: Net,
    loss: LossName,
    num_outputs: int,
    train: Sampled,
    val: Sampled | None,
    recipes: Sequence[Recipe],
    course: Course,
    *,
    device: torch.device | None = None,
    memory_nbytes: int = MEMORY_NBYTES,
) -> list[Fitted]:
    """Train one network per recipe; without validation rows all epochs are made and the last weights kept.

    Parameters
    ----------
    device
        Where the stack is trained; the processor by default. What is drawn at random is drawn on the processor:
        the same on every device.
    memory_nbytes
        A sixteenth of it bounds the rows that are gathered at a time, a quarter the validation rows kept.
    """
    import torch

    keep_memory(KEPT_BETWEEN_STEPS)
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(course.seed)
    # dropout has a stream of its own: a member without it sees the same order as one trained alone
    masks = torch.Generator().manual_seed(course.seed + 1)
    params = {
        name: p.expand(len(recipes), *p.shape).clone().to(device)
        for name, p in net.initial(generator).items()
    }
    lr, decay, rates = (
        torch.tensor([getattr(recipe, name) for recipe in recipes], dtype=torch.float32, device=device)
        for name in ("lr", "weight_decay", "dropout")
    )
    optimiser = OPTIMISERS[course.optimiser](params, lr, decay, net.decays)
    dropout = Dropout(rates[:, None, None], masks) if bool(rates.any()) else None
    judge = None if val is None else _Judge(net, loss, num_outputs, val, device, memory_nbytes)
    read = partial(
        _batches,
        train if course.epochs == 1 else _held(train, memory_nbytes),
        batch=course.batch,
        loss=loss,
        num_outputs=num_outputs,
    )
    most_nbytes = CHUNK_IN_MEMORY if isinstance(train.rows, ArrayRows) else CHUNK_NBYTES
    most_nbytes = min(most_nbytes, memory_nbytes // 16)
    race = _Race(params, course)
    steps = math.ceil(train.rows.shape[0] / course.batch) * course.epochs
    step = 0
    for epoch in range(1, course.epochs + 1):
        order = torch.randperm(train.rows.shape[0], generator=generator).numpy()
        for x, wanted in read(order, device=device, most_nbytes=most_nbytes):
            step += 1
            factor = (
                0.5 * (1 + math.cos(math.pi * (step - 1) / steps)) if course.schedule == "cosine" else 1.0
            )
            found = net.gradients(params, x, lambda out, w=wanted: errors(loss, out, w), dropout)  # type: ignore[misc]
            optimiser.step(params, found, step, factor)
        staying = race.after(epoch, params, None if judge is None else judge.losses(params))
        if not staying:
            break
        if len(staying) < len(optimiser.lr):
            params = {name: p[staying] for name, p in params.items()}
            optimiser.keep(staying)
            if dropout is not None:
                dropout.rates = dropout.rates[staying]
    return race.results()


def _held(train: Sampled, memory_nbytes: int) -> Sampled:
    """The same rows, scaled once where they lie in memory and there is room for it: not anew in every epoch."""
    rows = train.rows
    if not isinstance(rows, ArrayRows) or nbytes_of(rows) > min(KEPT_NBYTES, memory_nbytes // 4):
        return train
    return replace(train, rows=ArrayRows(train.scaled(rows.X).numpy()), is_scaled=True)


def _batches(
    train: Sampled,
    order: np.ndarray,
    *,
    batch: int,
    loss: LossName,
    num_outputs: int,
    device: torch.device,
    most_nbytes: int,
) -> Iterator[tuple[torch.Tensor, Wanted]]:
    """Rows in `order`, a batch at a time; gathered in chunks of several batches."""
    # targets are laid out as wide as the outputs
    row_nbytes = max(nbytes_of(train.rows) // max(1, train.rows.shape[0]), 4 * num_outputs)
    chunk = max(1, most_nbytes // (row_nbytes * batch)) * batch
    for start in range(0, len(order), chunk):
        index = order[start : start + chunk]
        x = train.scaled(train.rows.gather(index)).to(device)
        wanted = train.wanted(index, loss, num_outputs).to(device)
        places = wanted.values.shape[1] // len(index)
        for here in range(0, len(index), batch):
            stop = min(here + batch, len(index))
            yield x[here:stop], wanted.part(slice(here * places, stop * places))


class _Judge:
    """Mean validation loss of every member."""

    def __init__(
        self,
        net: Net,
        loss: LossName,
        num_outputs: int,
        val: Sampled,
        device: torch.device,
        memory_nbytes: int,
    ) -> None:
        self.net, self.loss, self.num_outputs, self.val, self.device = net, loss, num_outputs, val, device
        self._kept: list[tuple[torch.Tensor, Wanted]] | None = None
        if nbytes_of(val.rows) + 4 * num_outputs * val.rows.shape[0] <= min(KEPT_NBYTES, memory_nbytes // 4):
            self._kept = list(self._parts())

    def losses(self, params: Params) -> torch.Tensor:
        """Shape (G,), float64."""
        import torch

        total = torch.zeros(len(next(iter(params.values()))), dtype=torch.float64)
        mass = 0.0
        with torch.no_grad():
            for x, wanted in self._kept if self._kept is not None else self._parts():
                total += losses(self.loss, self.net.outputs(params, x), wanted).cpu()
                mass += wanted.mass
        return total / mass

    def _parts(self) -> Iterator[tuple[torch.Tensor, Wanted]]:
        for place, block in self.val.rows.blocks():
            x = self.val.scaled(block).to(self.device)
            for start in range(0, len(block), VALIDATION_ROWS):
                stop = min(start + VALIDATION_ROWS, len(block))
                index = slice(place.start + start, place.start + stop)
                yield x[start:stop], self.val.wanted(index, self.loss, self.num_outputs).to(self.device)


class _Race:
    """Which members are still trained, and the best that each has been."""

    def __init__(self, params: Params, course: Course) -> None:
        self.course = course
        self.best = {name: p.clone() for name, p in params.items()}
        num_members = len(next(iter(params.values())))
        self.members = np.arange(num_members)
        self.best_loss = np.full(num_members, np.inf)
        self.best_epoch = np.zeros(num_members, np.int64)
        self.num_epochs = np.zeros(num_members, np.int64)
        self.stopped: list[Stopped] = ["epochs"] * num_members

    def after(self, epoch: int, params: Params, losses_G: torch.Tensor | None) -> list[int]:
        """Judge an epoch; places in the stack of the members that go on."""
        sums = sum(p.double().sum(dim=tuple(range(1, p.ndim))) for p in params.values())
        finite = np.isfinite(sums.cpu().numpy())  # type: ignore[union-attr]
        loss = np.full(len(self.members), -float(epoch)) if losses_G is None else losses_G.numpy()
        finite &= np.isfinite(loss)
        better = finite & (loss < self.best_loss[self.members])
        here, who = np.flatnonzero(better), self.members[better]
        self.best_loss[who], self.best_epoch[who] = loss[better], epoch
        for name, p in params.items():
            self.best[name][who] = p[here]
        self.num_epochs[self.members] = epoch
        patience = self.course.patience
        early = np.zeros(len(self.members), bool)
        if losses_G is not None and patience is not None:
            early = epoch - self.best_epoch[self.members] >= patience
        last = epoch == self.course.epochs
        staying = []
        for place, member in enumerate(self.members):
            if not finite[place]:
                self.stopped[member] = "diverged"
            elif early[place]:
                self.stopped[member] = "patience"
            elif last:
                self.stopped[member] = "schedule" if self.course.schedule == "cosine" else "epochs"
            else:
                staying.append(place)
        self.members = self.members[staying]
        return staying

    def results(self) -> list[Fitted]:
        judged = np.isfinite(self.best_loss) & (self.best_loss >= 0)
        return [
            Fitted(
                {name: p[member].cpu().numpy() for name, p in self.best.items()},
                int(self.num_epochs[member]),
                int(self.best_epoch[member]),
                float(self.best_loss[member]) if judged[member] else math.nan,
                self.stopped[member],
            )
            for member in range(len(self.best_loss))
        ]
