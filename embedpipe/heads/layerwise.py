"""Fusion of many taps of one backbone, or of several: a learned mixture, or attention over them in each sample.

Taps lie side by side in a row. `mixture` adds scaled taps with softmax weights and reads the sum linearly, so one
tap is the linear model; taps of different widths are first projected to one. `attention` projects each tap and
lets learned queries weigh the taps anew in each sample.

References
----------
Peters et al. 2018, "Deep Contextualized Word Representations", equation 1 (scalar mixture).
Yang et al. 2021, "SUPERB: Speech Processing Universal PERformance Benchmark", section 3 (weighted sum of layers).
Ciernik et al. 2026, "Beyond the Final Layer: Attentive Multilayer Fusion for Vision Transformers" (attention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from embedpipe.errors import ShapeError
from embedpipe.heads.deep import DeepClassifierHead, DeepHead, DeepLabelsHead, DeepRegressorHead
from embedpipe.heads.nets import Net, uniform
from embedpipe.heads.stacked import Sampled
from embedpipe.heads.training import Training

if TYPE_CHECKING:
    import torch

    from embedpipe.heads.nets import Params

# G members, B rows of a batch, L taps, D features of one, V width after projection, Q queries, K outputs


@dataclass(frozen=True)
class FusionNet(Net):
    """A stack of fusions.

    Attributes
    ----------
    widths : tuple of int
        Columns of each tap.
    fusion : str
        ``mixture`` or ``attention``.
    width : int
        Columns after projection; not used by a mixture of taps of one width.
    queries : int
        Of attention; each gathers all of the projected columns.
    """

    widths: tuple[int, ...]
    num_outputs: int
    fusion: str
    width: int
    queries: int

    @property
    def _projects(self) -> bool:
        return self.fusion == "attention" or len(set(self.widths)) > 1

    def initial(self, generator: torch.Generator) -> Params:
        import torch

        params: Params = {}
        fused = self.width if self._projects else self.widths[0]
        if self._projects:
            for tap, columns in enumerate(self.widths):
                params[f"{tap}.weights"] = uniform((self.width, columns), columns, generator)
                params[f"{tap}.bias"] = uniform((self.width, 1), columns, generator)
        if self.fusion == "mixture":
            params["mixture"] = torch.zeros((len(self.widths),))
        else:
            params["query.weights"] = uniform((self.queries, self.width), self.width, generator)
            fused *= self.queries
        convex = self.fusion == "mixture" and len(self.widths) == 1
        shape = (self.num_outputs, fused)
        params["output.weights"] = torch.zeros(shape) if convex else uniform(shape, fused, generator)
        params["output.bias"] = torch.zeros((self.num_outputs, 1))
        return params

    def outputs(self, params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        import torch

        weights_GLB, taps_GLVB = self._weighed(params, x)
        if self.fusion == "mixture":
            fused_GVB = (weights_GLB[..., None, :] * taps_GLVB).sum(dim=1)
        else:
            # weights (G, Q, L, B): each query's mean of the taps, one below the other
            fused_GVB = torch.einsum("gqlb,glvb->gqvb", weights_GLB, taps_GLVB).flatten(1, 2)
        out_GKB: torch.Tensor = params["output.weights"] @ fused_GVB + params["output.bias"]
        return out_GKB

    def weights(self, params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Mean weight of each tap over rows and queries, shape (G, L); each member's sum is 1."""
        weights, _ = self._weighed(params, x)
        if self.fusion == "mixture":
            return weights[..., 0]
        mean_GL: torch.Tensor = weights.mean(dim=(1, 3))
        return mean_GL

    def _weighed(
        self, params: Mapping[str, torch.Tensor], x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of taps, (G, L, 1) or (G, Q, L, B), and what they weigh, (G or 1, L, V, B)."""
        import torch

        bounds = [0, *accumulate(self.widths)]
        taps = [x[:, bounds[tap] : bounds[tap + 1]].T for tap in range(len(self.widths))]
        if self._projects:
            taps_GLVB = torch.stack(
                [params[f"{tap}.weights"] @ one + params[f"{tap}.bias"] for tap, one in enumerate(taps)],
                dim=1,
            )
        else:
            taps_GLVB = torch.stack(taps)[None]
        if self.fusion == "mixture":
            return params["mixture"].softmax(dim=1)[..., None], taps_GLVB
        scores = torch.einsum("gqv,glvb->gqlb", params["query.weights"], taps_GLVB) / self.width**0.5
        return scores.softmax(dim=2), taps_GLVB


class _Layerwise(DeepHead):
    """What both kinds of target share.

    Attributes
    ----------
    layer_weights_ : float64 array, shape (L,)
        Of each tap; for attention the mean over training rows. They sum to 1.
    """

    family = "layerwise"
    shape_names = ("widths", "fusion", "width", "queries")
    learned = (*DeepHead.learned, "layer_weights_")
    layer_weights_: np.ndarray
    widths: Sequence[int] | None
    fusion: str
    width: int
    queries: int

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        fusion: str = "mixture",
        width: int = 64,
        queries: int = 1,
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
        self.widths = widths
        self.fusion = fusion
        self.width = width
        self.queries = queries
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
    def _fit_many(cls, heads: Sequence[Self], training: Training) -> None:
        import torch

        super()._fit_many(heads, training)
        _, block = next(iter(training.rows.blocks()))
        for head in heads:
            net = head._net(head.input_shape_, head.num_outputs)
            assert isinstance(net, FusionNet)
            params = {name: torch.from_numpy(p)[None] for name, p in head.params_.items()}
            rows = Sampled(training.rows, training.y, None, head.mean_, head.scale_)
            with torch.no_grad():
                head.layer_weights_ = net.weights(params, rows.scaled(block))[0].double().numpy()

    def _net(self, shape: tuple[int, ...], num_outputs: int) -> Net:
        widths = tuple(self.widths or shape)
        if sum(widths) != shape[0]:
            raise ShapeError(
                f"{type(self).__name__}: expected rows of {sum(widths)} columns (widths {list(widths)}), "
                f"found {shape[0]}"
            )
        return FusionNet(widths, num_outputs, self.fusion, self.width, self.queries)


class LayerwiseClassifierHead(_Layerwise, DeepClassifierHead):
    """Fusion of taps for classes.

    Parameters
    ----------
    widths : sequence of int or None
        Columns of each tap, in the order in which they lie; None: one tap.
    fusion : str
        ``mixture`` or ``attention``.
    width : int
        Columns after projection: for attention, and for taps of different widths.
    queries : int
        Of attention.
    lr, weight_decay : float
        AdamW's learning rate and decoupled decay.
    schedule, epochs, patience, batch, standardise, class_weight, device, random_state
        As `MlpClassifierHead` has them.
    """

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        fusion: str = "mixture",
        width: int = 64,
        queries: int = 1,
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
        self.widths = widths
        self.fusion = fusion
        self.width = width
        self.queries = queries
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


class LayerwiseRegressorHead(_Layerwise, DeepRegressorHead):
    """Fusion of taps for numbers.

    Parameters
    ----------
    widths, fusion, width, queries, lr, weight_decay, schedule, epochs, patience, batch, standardise
    device, random_state
        As `LayerwiseClassifierHead` has them.
    """


class LayerwiseLabelsHead(_Layerwise, DeepLabelsHead):
    """Fusion of taps for labels; unknown labels count nothing.

    Its parameters are those of `LayerwiseRegressorHead`.
    """
