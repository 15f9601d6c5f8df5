"""A model tapped at its modules, whatever its code: hooks take what a module gives, and nothing behind is computed.

For models that cannot be traced, or whose names are modules' names anyway: transformers, timm, the user's own. The
model is run once on two samples to see which modules run, and what they give. Knows nothing of weights or files.
"""

# N samples, C channels, H W height and width, T tokens, L tokens of a text with its padding, D features

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from embedpipe.backbones.graph import NodeInfo
from embedpipe.backbones.observed import Call, Observed, Seen, first_tensor
from embedpipe.backbones.staging import PADDING
from embedpipe.errors import ConfigError
from embedpipe.reduce import Layout, Reduction

BEFORE = "before:"  # what goes into a module is tapped, not what comes out


@dataclass(frozen=True)
class Layers:
    """How the layers of a model are named, for taps.

    Attributes
    ----------
    names : dict of str -> str
        Node name to the path of the module whose output it is, or ``before:<path>`` for its input; in order.
    blocks : tuple of str
        Nodes that ``blocks``, ``last`` and ``every:n`` choose from.
    norm : str or None
        Path of the norm that outputs of blocks pass before they are reduced.
    normed : frozenset of str
        Blocks that have passed it already.
    num_patches : int or None
        Tokens of an image that come from places of it; the rest come before them.
    first_is_class : bool
        Whether a text's first token stands for the whole.
    modules : tuple of str
        Paths of the modules that blocks are, in order, where nodes have other names; empty where they do not.
    """

    names: dict[str, str]
    blocks: tuple[str, ...]
    norm: str | None = None
    normed: frozenset[str] = frozenset()
    num_patches: int | None = None
    first_is_class: bool = False
    modules: tuple[str, ...] = ()


class _Deepest(BaseException):
    """Every tap is there. No `Exception`, which the model might catch."""


class HookedModel:
    """The modules of a model as nodes that can be tapped.

    Parameters
    ----------
    module : nn.Module
        In eval mode; its parameters are shared, never copied.
    call
        Runs it.
    observed : Observed
        One run on two samples.
    layers : Layers
    longest : int
        Tokens of the longest text; 0 for images.
    length : int
        Tokens of the texts it was observed with.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        observed: Observed,
        layers: Layers,
        *,
        longest: int = 0,
        length: int = 0,
    ) -> None:
        self.module, self._call, self._layers, self._longest = module, call, layers, longest
        places = dict(layers.names)
        known = set(places.values())
        by_order = sorted(observed.outputs, key=lambda path: observed.outputs[path].order)
        places |= {path: path for path in by_order if path not in known}
        num = max((seen.order for seen in observed.outputs.values()), default=1)
        nodes = []
        for name, place in places.items():
            seen = _seen(observed, place)
            if seen is not None and len(seen.shape) >= 2 and seen.shape[0] == 2 and all(seen.shape):
                order = seen.order
                nodes.append(
                    _Node(self._info(name, place, seen.shape, order / num, length), name, place, order)
                )
        nodes.sort(key=lambda node: node.order)
        self.infos: tuple[NodeInfo, ...] = tuple(node.info for node in nodes)
        self._nodes = {node.info.name: node for node in nodes} | {node.name: node for node in nodes}
        self.block_names = tuple(name for name in layers.blocks if name in self)
        self.block_modules = layers.modules or self.block_names
        self._began, self._reads = observed.began, observed.reads

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def names(self) -> list[str]:
        """Every name that can be tapped."""
        return list(self._nodes)

    def info(self, name: str) -> NodeInfo:
        """Shape and layout of a node."""
        return self._nodes[name].info

    def check(self, names: Iterable[str], where: str) -> None:
        """Refuse nodes that the final norm does not fit.

        Raises
        ------
        ConfigError
            Names the node.
        """
        for name in names:
            self._norm_of(self._nodes[name], where)

    def used_parameters(self, names: Iterable[str]) -> set[str]:
        """Names of parameters and buffers that were read once the deepest of `names` is there.

        Those that no operation read when the model was observed count with the module around them that ran, if it is
        not the model itself: another input may take another path within it.
        """
        end = max(self._nodes[name].order for name in names)
        norm = self._layers.norm
        used = set()
        for key in self.module.state_dict():
            read = self._reads.get(key)
            if read is None:
                around = key.rpartition(".")[0]
                while around and around not in self._began:
                    around = around.rpartition(".")[0]
                read = self._began[around] - 1 if around else end
            if read < end or (norm is not None and key.startswith(f"{norm}.")):
                used.add(key)
        return used

    def truncated(self, taps: Sequence[tuple[str, str, Reduction]]) -> nn.Module:
        """The forward pass that ends at the deepest tap, with each reduction right behind its node.

        Parameters
        ----------
        taps : sequence of (array name, node name, reduction)

        Returns
        -------
        nn.Module
            Maps what `Inputs.prepare` gives to a dict of array name to float32 features.
        """
        sites: dict[str, list[_Wanted]] = {}
        for array, name, reduction in taps:
            node = self._nodes[name]
            norm = self._norm_of(node)
            wanted = _Wanted(array, reduction, node.info.layout, node.info.num_prefix, norm)
            sites.setdefault(node.place, []).append(wanted)
        return Tapped(self.module, self._call, sites, self._longest)

    def compiled(self, model: nn.Module) -> nn.Module:
        """Let `torch.compile` make kernels for the blocks, each on its own: hooks stand outside of them.

        A block with a tap inside is computed as it is.
        """
        assert isinstance(model, Tapped)
        tapped = [place.removeprefix(BEFORE) for place in model.places]
        for name in self.block_names:
            path = self._nodes[name].place.removeprefix(BEFORE)
            part = model.module.get_submodule(path)
            if not any(place.startswith(f"{path}.") for place in tapped):
                part.forward = torch.compile(part.forward)
        return model

    def _norm_of(self, node: _Node, where: str = "backbones") -> str | None:
        """Path of the norm that a node's output passes, if it does."""
        path = self._layers.norm
        if path is None or node.name not in self._layers.blocks or node.name in self._layers.normed:
            return None
        size = getattr(self.module.get_submodule(path), "normalized_shape", None)
        width = node.info.shape[0 if node.info.layout == "NCHW" else -1]
        if size is not None and tuple(size) != (width,):
            raise ConfigError(
                f"{where}.norm: the final norm {path} takes {size[-1]} features, {node.name} has {width}; "
                "tap nodes as wide as the last, or set norm: none"
            )
        return path

    def _info(self, name: str, place: str, shape: tuple[int, ...], depth: float, length: int) -> NodeInfo:
        layout, num_prefix = self._layout(shape, length)
        row = (self._longest, *shape[2:]) if layout == "NLD" else shape[1:]
        also = () if place == name or place.startswith(BEFORE) else (name,)
        own = name if place.startswith(BEFORE) else place
        is_block = name in self._layers.blocks
        return NodeInfo(own, row, layout, 2 * math.prod(row), depth, num_prefix, also, is_block)

    def _layout(self, shape: tuple[int, ...], length: int) -> tuple[Layout, int]:
        """Layout of a node's output, and its tokens before the patches or (of a text) its class token."""
        if len(shape) == 2:
            return "ND", 0
        if self._longest:
            if len(shape) == 3 and shape[1] == length:
                return "NLD", int(self._layers.first_is_class)
            return "other", 0
        if len(shape) == 3:
            return self._tokens(shape[1])
        if len(shape) == 4:
            _, a, b, c = shape
            if b == c != a:
                return "NCHW", 0
            if a == b != c:
                return "NHWC", 0
        return "other", 0

    def _tokens(self, num_tokens: int) -> tuple[Layout, int]:
        patches = self._layers.num_patches
        if patches is None:
            return "NTD", 0
        if num_tokens >= patches:
            return "NTD", num_tokens - patches
        merged = patches
        while merged > num_tokens and merged % 4 == 0:  # merged two by two, as in Swin
            merged //= 4
        return ("NTD", 0) if merged == num_tokens else ("other", 0)


@dataclass(frozen=True)
class _Node:
    """A node under the name that taps give it, and where it is found."""

    info: NodeInfo
    name: str
    place: str
    order: int


@dataclass(frozen=True)
class _Wanted:
    array: str
    reduction: Reduction
    layout: Layout
    num_prefix: int
    norm: str | None


class Tapped(nn.Module):
    """A model that stops at the deepest tap and gives the reduced taps by array name.

    Attributes
    ----------
    stops : bool
        False where it is to be exported, which no pass that was broken off can be: then it computes the whole model,
        and every batch has a padded place, since sizes are not known.
    """

    def __init__(self, module: nn.Module, call: Call, sites: dict[str, list[_Wanted]], longest: int) -> None:
        super().__init__()
        self.module, self._call, self._sites, self._longest = module, call, sites, longest
        self.stops = True

    @property
    def places(self) -> tuple[str, ...]:
        """Paths of the modules that are listened to."""
        return tuple(self._sites)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        num, mask_NL = x.shape[0], None
        if self._longest:
            x = with_padded_place(x, self._longest if self.stops else 0)
            mask_NL = mask_of(x)
        found: dict[str, torch.Tensor] = {}
        handles = [self._listen(place, wanteds, mask_NL, found) for place, wanteds in self._sites.items()]
        try:
            self._call(self.module, x)
        except _Deepest:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return {wanted.array: found[wanted.array][:num] for ones in self._sites.values() for wanted in ones}

    def _listen(
        self, place: str, wanteds: list[_Wanted], mask_NL: torch.Tensor | None, found: dict[str, torch.Tensor]
    ) -> Any:
        def take(value: torch.Tensor | None) -> None:
            assert value is not None
            for one in wanteds:
                normed = value if one.norm is None else self.module.get_submodule(one.norm).forward(value)
                found[one.array] = self._reduced(one, normed, mask_NL)
            if self.stops and len(found) == sum(map(len, self._sites.values())):
                raise _Deepest

        part = self.module.get_submodule(place.removeprefix(BEFORE))
        if place.startswith(BEFORE):
            return part.register_forward_pre_hook(
                lambda _, args, kwargs: take(first_tensor([*args, *kwargs.values()])), with_kwargs=True
            )
        return part.register_forward_hook(lambda _, args, output: take(first_tensor(output)))

    def _reduced(self, one: _Wanted, value: torch.Tensor, mask_NL: torch.Tensor | None) -> torch.Tensor:
        out = one.reduction.apply(value, one.layout, num_prefix=one.num_prefix, mask_NL=mask_NL)
        if one.layout == "NLD" and one.reduction.family == "none":
            out = nn.functional.pad(out, (0, 0, 0, self._longest - out.shape[1]))
        return out


def mask_of(ids_NL: torch.Tensor) -> torch.Tensor:
    """Which tokens are a text's own, bool (N, L); an empty row has one, or attention would divide by nothing."""
    mask_NL = ids_NL != PADDING
    mask_NL[:, 0] = True
    return mask_NL


def with_padded_place(ids_NL: torch.Tensor, longest: int) -> torch.Tensor:
    """The batch, and below it an empty row where texts may fill the whole length.

    Without any padding a model may leave out its mask and compute by another path, and a row would depend on
    whether its neighbours are as long. Shorter lengths always have a padded place.
    """
    if longest and ids_NL.shape[1] < longest:
        return ids_NL
    return torch.cat([ids_NL, torch.full_like(ids_NL[:1], PADDING)])


def _seen(observed: Observed, place: str) -> Seen | None:
    if place.startswith(BEFORE):
        return observed.inputs.get(place.removeprefix(BEFORE))
    return observed.outputs.get(place)
