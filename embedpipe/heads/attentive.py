"""Attentive pooling: learned queries weigh the tokens of a sample, and a linear layer reads what they gather.

The queries look at the tokens themselves: a learned query makes a key projection redundant, since
``q · (W x) = (Wᵀ q) · x``. Each query gathers its own slice of one value projection, as a head of multi-head
attention does.

References
----------
Chen et al. 2024, "Context Autoencoder for Self-Supervised Representation Learning" (attentive probe).
Bardes et al. 2024, "Revisiting Feature Prediction for Learning Visual Representations from Video".
Psomas et al. 2025, "Attention, Please! Revisiting Attentive Probing" (a query for each head, no key projection).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.deep import DeepClassifierHead, DeepHead, DeepLabelsHead, DeepRegressorHead
from embedpipe.heads.linear import Scaling
from embedpipe.heads.nets import Net, uniform
from embedpipe.heads.neural import scaling_of
from embedpipe.heads.rows import Rows

if TYPE_CHECKING:
    import torch

    from embedpipe.heads.nets import Params

# G members, B rows of a batch, T tokens, D features of one, Q queries, V values of one query, K outputs


@dataclass(frozen=True)
class AttentiveNet(Net):
    """A stack of attentive poolings.

    Attributes
    ----------
    queries : int
        Learned queries, each a head of attention.
    width : int
        Values gathered by all queries together.
    """

    num_features: int
    num_outputs: int
    queries: int
    width: int

    def initial(self, generator: torch.Generator) -> Params:
        each = self.width // self.queries
        return {
            "query.weights": uniform((self.queries, self.num_features), self.num_features, generator),
            "value.weights": uniform((self.queries, self.num_features, each), self.num_features, generator),
            "value.bias": uniform((self.queries, 1, each), self.num_features, generator),
            "output.weights": uniform((self.num_outputs, self.width), self.width, generator),
            "output.bias": uniform((self.num_outputs, 1), self.width, generator),
        }

    def outputs(self, params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        x_BTD = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        num_rows, num_tokens, num_features = x_BTD.shape
        num_members = len(params["query.weights"])
        scores = params["query.weights"].flatten(0, 1) @ x_BTD.reshape(-1, num_features).T
        attention = (scores.view(-1, num_rows, num_tokens) / num_features**0.5).softmax(dim=2)
        seen_BQD = attention.transpose(0, 1) @ x_BTD
        values = seen_BQD.transpose(0, 1) @ params["value.weights"].flatten(0, 1)
        values = values + params["value.bias"].flatten(0, 1)
        gathered = values.view(num_members, self.queries, num_rows, -1).transpose(2, 3).flatten(1, 2)
        out_GKB: torch.Tensor = params["output.weights"] @ gathered + params["output.bias"]
        return out_GKB


class _Attentive(DeepHead):
    """What both kinds of target share."""

    family = "attentive"
    shape_names = ("queries", "width")
    maps = True
    takes = (
        "tokens of shape (samples, tokens, features) or maps of shape (samples, channels, height, width)",
        "tap them with the reduction none, or with grid:k",
    )
    queries: int
    width: int

    def __init__(
        self,
        queries: int = 8,
        *,
        width: int = 128,
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
        self.queries = queries
        self.width = width
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
        return len(shape) in (2, 3)

    def _net(self, shape: tuple[int, ...], num_outputs: int) -> Net:
        if self.width % self.queries:
            raise ConfigError(
                f"attentive: expected a width that {self.queries} queries divide, found {self.width}"
            )
        return AttentiveNet(shape[0] if len(shape) == 3 else shape[1], num_outputs, self.queries, self.width)

    def _scaling(self, rows: Rows, weight: np.ndarray | None) -> Scaling:
        # one shift and scale a feature: a sample's tokens are alike
        axes = (2, 3) if len(rows.shape) == 4 else (1,)
        return scaling_of(rows, standardise=self.standardise, weight=weight, axes=axes)


class AttentiveClassifierHead(_Attentive, DeepClassifierHead):
    """Attentive pooling for classes, over tokens (N, T, D) or maps (N, C, Y, X).

    Parameters
    ----------
    queries : int
        Learned queries, each a head of attention.
    width : int
        Values gathered by all queries together; a multiple of `queries`.
    lr, weight_decay : float
        AdamW's learning rate and decoupled decay.
    schedule, epochs, patience, batch, standardise, class_weight, device, random_state
        As `MlpClassifierHead` has them.
    """

    def __init__(
        self,
        queries: int = 8,
        *,
        width: int = 128,
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
        self.queries = queries
        self.width = width
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


class AttentiveRegressorHead(_Attentive, DeepRegressorHead):
    """Attentive pooling for numbers, over tokens (N, T, D) or maps (N, C, Y, X).

    Parameters
    ----------
    queries, width, lr, weight_decay, schedule, epochs, patience, batch, standardise, device, random_state
        As `AttentiveClassifierHead` has them.
    """


class AttentiveLabelsHead(_Attentive, DeepLabelsHead):
    """Attentive pooling for labels, over tokens (N, T, D) or maps (N, C, Y, X); unknown labels count nothing.

    Its parameters are those of `AttentiveRegressorHead`.
    """
