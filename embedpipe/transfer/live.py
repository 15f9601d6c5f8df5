"""A backbone up to its taps with a head behind it, as one network that can be trained.

Takes uint8 pixels, as they are decoded; gives the head's outputs. Knows nothing of tasks or files.
"""

# N samples, C channels, H W height and width, D features, K outputs

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import fx, nn

from embedpipe.backbones.backbone import Backbone
from embedpipe.heads.module import HeadModule
from embedpipe.spec import TapSpec

Link = Literal["softmax", "sigmoid", "none"]
BODY, HEAD = "body", "head"


class LinearHead(nn.Module):
    """A new linear layer over features; numbers are learnt in units of the training targets.

    Parameters
    ----------
    num_features, num_outputs : int
    link : str
        What turns outputs into probabilities; ``none`` for a number.
    mean, std : float
        Of the training targets, for a number.
    """

    def __init__(
        self, num_features: int, num_outputs: int, link: Link, mean: float = 0.0, std: float = 1.0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, num_outputs)
        self.link: Link = link
        self._mean, self._std = mean, std

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, K) outputs of features laid out flat; (N,) where the head says a number."""
        outputs_NK: torch.Tensor = self.linear(features.flatten(1))
        return outputs_NK[:, 0] * self._std + self._mean if self.link == "none" else outputs_NK


class LiveModel(nn.Module):
    """From pixels to outputs.

    Parameters
    ----------
    backbone : Backbone
        Its weights are copied, so that training leaves it as it was.
    tap_specs : sequence of TapSpec
        What the head reads; several lie side by side, laid out flat.
    head : HeadModule or LinearHead
    row_shape : tuple of int, optional
        Shape in which the head sees a row, where it is not that of the tap.

    Attributes
    ----------
    body : GraphModule
        The backbone up to the deepest tap; its layers have the backbone's own names.
    blocks, tail : tuple of str
        Names, below `body`, of the backbone's blocks that are in use, and of what lies behind the last of them.
    """

    def __init__(
        self,
        backbone: Backbone,
        tap_specs: Sequence[TapSpec],
        head: HeadModule | LinearHead,
        row_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.body = copy.deepcopy(backbone.truncated(tap_specs)).requires_grad_(True)
        self.head = head.requires_grad_(True)
        self.blocks, self.tail = _parts_of(self.body, backbone.blocks)
        self._normalise = backbone.normalise
        self._taps = tuple(spec.name for spec in tap_specs)
        self._row_shape = row_shape
        self._channels_last = any(isinstance(part, nn.Conv2d) for part in self.body.modules())

    @property
    def link(self) -> Link:
        """What turns outputs into probabilities."""
        return self.head.link

    def features(self, x_NCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of each tap by name, float32, of uint8 pixels or of what `Backbone.preprocess` gives."""
        if x_NCHW.dtype == torch.uint8:
            x_NCHW = self._normalise(x_NCHW)
        if self._channels_last:
            x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        found: dict[str, torch.Tensor] = self.body(x_NCHW)
        return found

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """The head's outputs."""
        found = self.features(x_NCHW)
        if len(self._taps) > 1:
            rows = torch.cat([found[name].flatten(1) for name in self._taps], dim=1)
        else:
            rows = found[self._taps[0]]
        if self._row_shape is not None:
            rows = rows.reshape(len(rows), *self._row_shape)
        outputs: torch.Tensor = self.head(rows)
        return outputs

    def probabilities(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Probabilities by class or label, float32 (N, K); numbers, (N, 1)."""
        outputs: torch.Tensor = self(x_NCHW).float()
        if self.link == "softmax":
            outputs = outputs.softmax(dim=1)
        elif self.link == "sigmoid":
            outputs = outputs.sigmoid()
        return outputs.reshape(len(outputs), -1)


def _parts_of(body: fx.GraphModule, blocks: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Blocks that hold weights here, in order; and modules with weights behind the last of them."""
    order = [str(node.target) for node in body.graph.nodes if node.op in ("call_module", "get_attr")]
    held = {name: _holds_weights(body, name) for name in order}

    def block_of(name: str) -> str | None:
        return next((block for block in blocks if name == block or name.startswith(f"{block}.")), None)

    used = [block for block in blocks if any(held[name] and block_of(name) == block for name in order)]
    inside = [place for place, name in enumerate(order) if block_of(name) is not None]
    behind = order[inside[-1] + 1 :] if inside else []
    return tuple(used), tuple(dict.fromkeys(name for name in behind if held[name]))


def _holds_weights(body: fx.GraphModule, name: str) -> bool:
    found: Any = body
    for part in name.split("."):
        found = getattr(found, part)
    return isinstance(found, torch.Tensor) or any(True for _ in found.parameters())
