"""A backbone up to its taps with a head behind it, as one network that can be trained.

Takes uint8 pixels, as they are decoded; gives the head's outputs. Knows nothing of tasks or files.
"""

# N samples, C channels, H W height and width, D features, K outputs

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from embedpipe.backbones.backbone import Backbone
from embedpipe.heads.layers import HeadModule, Link, OneColumn, Scale
from embedpipe.manifest.kinds import TargetSpec, Truth
from embedpipe.spec import TapSpec

BODY, HEAD = "body", "head"


def new_head(num_features: int, spec: TargetSpec, truth: Truth) -> HeadModule:
    """A linear layer over features, its weights drawn from torch's global generator.

    Parameters
    ----------
    num_features : int
    spec : TargetSpec
        Of classes, labels or numbers.
    truth : array, shape (N, ...)
        Of the training samples: numbers are learnt in units of theirs.
    """
    layer = nn.Linear(num_features, spec.width)
    if spec.kind != "number":
        link: Link = "softmax" if spec.kind == "classes" else "sigmoid"
        return HeadModule(nn.Identity(), layer, kind=spec.kind, link=link, num_features=num_features)
    values_NM = truth.reshape(len(truth), -1)
    mean_M = torch.tensor(values_NM.mean(axis=0), dtype=torch.float32)
    std_M = torch.tensor(values_NM.std(axis=0), dtype=torch.float32)
    std_M = torch.where(std_M > 0, std_M, 1.0)
    layers = [layer, Scale(-mean_M / std_M, 1.0 / std_M)]
    if not spec.row_shape:
        layers.append(OneColumn())
    return HeadModule(
        nn.Identity(), nn.Sequential(*layers), kind="number", link="none", num_features=num_features
    )


class LiveModel(nn.Module):
    """From pixels to outputs.

    Parameters
    ----------
    backbone : Backbone
        Its weights are copied, so that training leaves it as it was.
    tap_specs : sequence of TapSpec
        What the head reads; several lie side by side, laid out flat.
    head : HeadModule
    row_shape : tuple of int, optional
        Shape in which the head sees a row, where it is not that of the tap.

    Attributes
    ----------
    body : Module
        The backbone up to the deepest tap.
    trunk : str
        Name of the part below which layers have the backbone's own names.
    blocks, tail : tuple of str
        Names, below the trunk, of the backbone's blocks that are in use, and of what lies behind the last of them.
    row_shape : tuple of int or None
    """

    def __init__(
        self,
        backbone: Backbone,
        tap_specs: Sequence[TapSpec],
        head: HeadModule,
        row_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.body = backbone.trainable(tap_specs)
        self.head = head.requires_grad_(True)
        self._normalise, self._finish = backbone.normalise, backbone.finish
        if isinstance(self.body, fx.GraphModule):
            self.trunk = BODY
            self.blocks, self.tail = _parts_of(self.body, backbone.blocks)
        else:
            self.trunk = f"{BODY}.module"
            pixels_2CHW = torch.zeros((2, *backbone.input_shape), dtype=torch.uint8)
            _freeze_unreached(self.body, self._normalise(pixels_2CHW))
            self.blocks, self.tail = _parts_in_order(self.get_submodule(self.trunk), backbone.block_modules)
        self._taps = tuple(spec.name for spec in tap_specs)
        self.row_shape = row_shape
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
        return self._finish(found)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """The head's outputs."""
        found = self.features(x_NCHW)
        if len(self._taps) > 1:
            rows = torch.cat([found[name].flatten(1) for name in self._taps], dim=1)
        else:
            rows = found[self._taps[0]]
        if self.row_shape is not None:
            rows = rows.reshape(len(rows), *self.row_shape)
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


def _freeze_unreached(body: nn.Module, x_NCHW: torch.Tensor) -> None:
    """Take what lies behind the deepest tap out of training: weights that no gradient comes to."""
    torch.stack([features.sum() for features in body(x_NCHW).values()]).sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    for value in body.parameters():
        value.requires_grad_(value.grad is not None)
        value.grad = None


def _parts_in_order(module: nn.Module, blocks: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same of a model that is no graph: its children stand in the order in which they were made."""

    def learns(name: str) -> bool:
        return any(value.requires_grad for value in module.get_submodule(name).parameters())

    used = [block for block in blocks if learns(block)]
    children = [name for name, _ in module.named_children()]
    holders = [children.index(block.split(".")[0]) for block in used]
    behind = children[max(holders) + 1 :] if holders else []
    return tuple(used), tuple(name for name in behind if learns(name))


def _holds_weights(body: fx.GraphModule, name: str) -> bool:
    found: Any = body
    for part in name.split("."):
        found = getattr(found, part)
    return isinstance(found, torch.Tensor) or any(True for _ in found.parameters())
