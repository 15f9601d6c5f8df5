"""Small convolutional heads over maps: 1×1 to a width, 3×3, average or greatest value over places, linear.

Without hidden channels the head is one 1×1 convolution to the outputs and an average over places, which is the
linear model on averaged maps.

References
----------
Lin et al. 2014, "Network in Network", sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedpipe.heads.deep import DeepClassifierHead, DeepHead, DeepLabelsHead, DeepRegressorHead
from embedpipe.heads.linear import Scaling
from embedpipe.heads.nets import Net, uniform
from embedpipe.heads.neural import scaling_of
from embedpipe.heads.rows import Rows

if TYPE_CHECKING:
    import torch

    from embedpipe.heads.nets import Params

# G members, B rows of a batch, C channels of the map, H hidden channels, Y X rows and columns, K outputs


@dataclass(frozen=True)
class ConvNet(Net):
    """A stack of convolutional networks; members lie side by side as groups of channels.

    Attributes
    ----------
    hidden : int
        Channels after the first convolution and after the second; 0 leaves both out.
    kernel : int
        Side of the second convolution, odd.
    pool : str
        ``mean`` or ``max`` over places; ``keep`` gives outputs at every place.
    """

    channels: int
    num_outputs: int
    hidden: int
    kernel: int
    pool: str

    def initial(self, generator: torch.Generator) -> Params:
        import torch

        if not self.hidden:  # convex: from zero, as the linear model
            return {
                "output.weights": torch.zeros((self.num_outputs, self.channels)),
                "output.bias": torch.zeros((self.num_outputs, 1)),
            }
        hidden, side = self.hidden, self.kernel
        return {
            "first.weights": uniform((hidden, self.channels, 1, 1), self.channels, generator),
            "first.bias": uniform((hidden,), self.channels, generator),
            "second.weights": uniform((hidden, hidden, side, side), hidden * side * side, generator),
            "second.bias": uniform((hidden,), hidden * side * side, generator),
            "output.weights": uniform((self.num_outputs, hidden), hidden, generator),
            "output.bias": uniform((self.num_outputs, 1), hidden, generator),
        }

    def outputs(self, params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional as F

        weights_GKH, bias_GK1 = params["output.weights"], params["output.bias"]
        num_members, num_rows = weights_GKH.shape[0], x.shape[0]
        if not self.hidden:
            here_GHBP = x.flatten(2).transpose(0, 1)[None]
        else:
            maps = F.conv2d(x, params["first.weights"].flatten(0, 1), params["first.bias"].flatten()).relu_()
            maps = F.conv2d(
                maps,
                params["second.weights"].flatten(0, 1),
                params["second.bias"].flatten(),
                padding=self.kernel // 2,
                groups=num_members,
            ).relu_()
            split = maps.view(num_rows, num_members, self.hidden, -1)
            here_GHBP = split.permute(1, 2, 0, 3)
        if self.pool == "mean":
            here_GHB = here_GHBP.mean(dim=3)
        elif self.pool == "max":
            here_GHB = here_GHBP.amax(dim=3)
        else:
            here_GHB = here_GHBP.flatten(2)
        return weights_GKH @ here_GHB + bias_GK1


class Convolutional(DeepHead):
    """What all convolutional heads share."""

    family = "conv"
    shape_names = ("hidden", "kernel", "pool")
    maps = True
    takes = (
        "maps of shape (samples, channels, height, width)",
        "tap a map with the reduction none, or with grid:k",
    )
    hidden: int
    kernel: int
    pool: str

    def __init__(
        self,
        hidden: int = 32,
        *,
        kernel: int = 3,
        pool: str = "mean",
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        schedule: str = "constant",
        epochs: int = 100,
        patience: int = 10,
        batch: int = 256,
        standardise: bool = True,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.kernel = kernel
        self.pool = pool
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.standardise = standardise
        self.device = device
        self.random_state = random_state

    @classmethod
    def _fits(cls, shape: tuple[int, ...]) -> bool:
        return len(shape) == 3

    def _net(self, shape: tuple[int, ...], num_outputs: int) -> Net:
        return ConvNet(shape[0], num_outputs, self.hidden, self.kernel, self.pool)

    def _scaling(self, rows: Rows, weight: np.ndarray | None) -> Scaling:
        # one shift and scale a channel: a map's places are alike
        return scaling_of(rows, standardise=self.standardise, weight=weight, axes=(2, 3))


class ConvClassifierHead(Convolutional, DeepClassifierHead):
    """A convolutional head for classes, over maps (N, C, Y, X).

    Parameters
    ----------
    hidden : int
        Channels between input and output; 0: linear at every place, then averaged.
    kernel : int
        Side of the second convolution, odd.
    pool : str
        ``mean`` or ``max`` over places.
    lr, weight_decay : float
        AdamW's learning rate and decoupled decay.
    schedule, epochs, patience, batch, standardise, class_weight, device, random_state
        As `MlpClassifierHead` has them.
    """

    def __init__(
        self,
        hidden: int = 32,
        *,
        kernel: int = 3,
        pool: str = "mean",
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        schedule: str = "constant",
        epochs: int = 100,
        patience: int = 10,
        batch: int = 256,
        standardise: bool = True,
        class_weight: Any = None,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.kernel = kernel
        self.pool = pool
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.standardise = standardise
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state


class ConvRegressorHead(Convolutional, DeepRegressorHead):
    """A convolutional head for numbers, over maps (N, C, Y, X).

    Parameters
    ----------
    hidden, kernel, pool, lr, weight_decay, schedule, epochs, patience, batch, standardise, device, random_state
        As `ConvClassifierHead` has them.
    """


class ConvLabelsHead(Convolutional, DeepLabelsHead):
    """A convolutional head for labels, over maps (N, C, Y, X); unknown labels count nothing.

    Its parameters are those of `ConvRegressorHead`.
    """
