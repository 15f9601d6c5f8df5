"""A frozen source model with its taps: from a decoded image or a text to named features.

Reads options and weights; gives tensors. Knows nothing of stores, tasks or heads.
"""

# N samples, C channels, H W height and width

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import fx, nn

from embedpipe.backbones.arithmetic import arithmetic, lowered
from embedpipe.backbones.graph import ModelGraph, NodeInfo, expand_selector
from embedpipe.backbones.hooked import Tapped
from embedpipe.backbones.inputs import Inputs
from embedpipe.backbones.opening import Graph, open_model
from embedpipe.backbones.options import BackboneOptions, Role
from embedpipe.backbones.output import Output
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.backbones.weights import weights_digest
from embedpipe.errors import ConfigError, EmbedpipeError, ShapeError, WeightsError
from embedpipe.reduce import Reduction, get_reduction
from embedpipe.spec import TapSpec

if TYPE_CHECKING:
    from PIL import Image

Precision = Literal["float32", "bfloat16", "float16"]
Forward = Callable[[torch.Tensor], dict[str, torch.Tensor]]
_Prepared = tuple[tuple[tuple[str, str, str], ...], torch.device, torch.dtype, bool]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Backbone:
    """A source model that is never trained again.

    Built by `embedpipe.backbones.load_backbone`.

    Attributes
    ----------
    name : str
        Its name in params.yaml.
    architecture : str
        Model with its structural options, e.g. ``torchvision:resnet50`` or ``glyphnet:width=24,image_px=8``.
    weights_digest : str
        blake2b-128 of the tensors loaded: names, dtypes, shapes, bytes. 32 hex digits.
    preprocessing : str
        Canonical JSON of every step between a decoded sample and the model, and behind the taps.
    inputs : Inputs
        Those steps.
    modality : str
        ``image`` or ``text``.
    role : str
        ``transferred``, ``random`` or ``pixels``.
    module : nn.Module
        In eval mode, without gradients, on the CPU.
    origin : dict of str -> str
        Where the weights come from and under which licence, as far as that is known.
    input_shape : tuple of int
        (C, H, W) of one preprocessed image; (L,) of the longest text.
    unloaded : frozenset of str
        Tensors of the classifier that the weights do not hold.
    """

    def __init__(
        self,
        name: str,
        *,
        architecture: str,
        module: nn.Module,
        digest: str,
        inputs: Inputs,
        taps: dict[str, list[str]],
        role: Role,
        graph: Graph,
        output: Output | None = None,
        origin: dict[str, str] | None = None,
        unloaded: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.architecture = architecture
        self.module = module
        self.weights_digest = digest
        self.role: Role = role
        self.origin = origin or {}
        self.unloaded = unloaded
        self._graph = graph
        self._output = output or Output()
        self._taps = resolve_taps(name, taps, graph)
        self._output.check(f"params.yaml: backbones.{name}", self.tap_shapes_of_model())
        self._channels_last = any(isinstance(part, nn.Conv2d) for part in module.modules())
        self._prepared: dict[_Prepared, nn.Module] = {}  # at most one
        self._take_in(inputs)

    def _take_in(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.modality, self.staging = inputs.modality, inputs.staging
        self.preprocessing = self._output.described(inputs.canonical())

    @property
    def is_traced(self) -> bool:
        """Whether parts of the model can be trained: see `truncated`."""
        return isinstance(self._graph, ModelGraph)

    @property
    def has_weights(self) -> bool:
        """Whether a pass multiplies by anything: of pixels themselves it does not."""
        return any(True for _ in self.module.parameters())

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.staging.shape

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Turn a decoded image into the model's input.

        Parameters
        ----------
        image : PIL image, mode RGB or L
            A grey image is repeated over three channels where the model needs them; a colour image becomes
            its luminance where the model takes one.

        Returns
        -------
        float32 tensor, shape (C, H, W)
        """
        return self.inputs.prepare(self.inputs.stage(image))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """The steps of `preprocess` that need single pixels: uint8 tensor (C, H, W), a quarter of the bytes.

        The rest are done by the forward pass, on its device.
        """
        return self.inputs.stage(image)

    @property
    def can_resample_tensors(self) -> bool:
        """Whether `resampling_tensors` is possible: for images, and with this backbone's filter."""
        return isinstance(self.inputs, Preprocessing) and self.inputs.can_resample_tensors

    @property
    def takes_tensors(self) -> bool:
        """Whether images may come decoded to tensors, uint8 (1 or 3, H, W)."""
        return isinstance(self.inputs, Preprocessing) and self.inputs.takes_tensors

    def resampling_tensors(self) -> Backbone:
        """This backbone with its images resampled as tensors: another preprocessing, so another store."""
        assert isinstance(self.inputs, Preprocessing)
        return self.with_inputs(dataclasses.replace(self.inputs, on_tensors=True))

    def resampling_as(self, preprocessing: str) -> Backbone:
        """This backbone with images resampled as a store's `preprocessing` says, if that is all that differs."""
        if self.preprocessing == preprocessing or not self.can_resample_tensors:
            return self
        other = self.resampling_tensors()
        return other if other.preprocessing == preprocessing else self

    def with_inputs(self, inputs: Inputs) -> Backbone:
        """This backbone behind another preprocessing."""
        other = copy.copy(self)
        other._take_in(inputs)
        return other

    def nodes(self) -> list[NodeInfo]:
        """Everything that can be tapped, in order of computation."""
        return list(self._graph.infos)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the main stages, which ``blocks``, ``last`` and ``every:n`` choose from."""
        return self._graph.block_names

    @property
    def block_modules(self) -> tuple[str, ...]:
        """Paths of the modules that the main stages are: of transformers, layers whose nodes are ``hidden.i``."""
        return self._graph.block_modules

    def tap_specs(self, dtype: str = "float16") -> list[TapSpec]:
        """Taps of params.yaml with selectors expanded, in order of depth.

        Parameters
        ----------
        dtype : {"float16", "float32"}
            Storage dtype of all of them.
        """
        return [TapSpec(node, reduction.name, dtype) for node, reduction in self._taps]

    def tap_infos(self, tap_specs: Sequence[TapSpec]) -> dict[str, NodeInfo]:
        """Node of each tap, by tap name."""
        return {spec.name: self._graph.info(spec.node) for spec in tap_specs}

    def tap_shapes(self, tap_specs: Sequence[TapSpec] | None = None) -> dict[str, tuple[int, ...]]:
        """Shape of one sample's features by tap name; of all taps in params.yaml when none are given."""
        return {
            name: self._output.shape(shape) for name, shape in self.tap_shapes_of_model(tap_specs).items()
        }

    def tap_shapes_of_model(self, tap_specs: Sequence[TapSpec] | None = None) -> dict[str, tuple[int, ...]]:
        """`tap_shapes` before dimensions are cut."""
        specs = self.tap_specs() if tap_specs is None else tap_specs
        return {
            spec.name: tap_shape(self._graph.info(spec.node), get_reduction(spec.reduction)) for spec in specs
        }

    def truncated(self, tap_specs: Sequence[TapSpec]) -> fx.GraphModule:
        """The part of the module that these taps need: from normalised input to a dict of features by tap name.

        In eval mode; it shares the backbone's weights, so copy it before it is trained.

        Raises
        ------
        ConfigError
            If the model is not one that can be traced.
        """
        model = self._upto(tap_specs)
        if not isinstance(model, fx.GraphModule):
            raise ConfigError(
                f"params.yaml: backbones.{self.name}: expected a model of torchvision, or glyphnet, whose parts can be "
                "trained on, found one that is tapped as it runs; train heads on its features"
            )
        return model

    def trainable(self, tap_specs: Sequence[TapSpec]) -> nn.Module:
        """A copy of the part of the module that these taps need, whose every weight may be trained.

        From what `normalise` gives to a dict of features by tap name; `finish` is still to be done. In eval mode. A
        model that is tapped as it runs is whole, below ``module``: what lies behind the deepest tap is never reached.
        """
        return copy.deepcopy(self._upto(tap_specs)).requires_grad_(True)

    def exportable(self, tap_specs: Sequence[TapSpec]) -> nn.Module:
        """`truncated` for `torch.export`: a model that is tapped as it runs goes on to its end, and is cut there."""
        model = self._upto(tap_specs)
        if isinstance(model, Tapped):
            model.stops = False
        return model

    def finish(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is done to features behind the taps."""
        return self._output.apply(features)

    def normalise(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Pixels, uint8 (N, C, H, W) as `pixels` gives them, on any device, to the model's input."""
        return self.inputs.prepare(x_NCHW)

    def forward(
        self,
        tap_specs: Sequence[TapSpec],
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        *,
        compiled: bool = False,
    ) -> Forward:
        """Prepare the forward pass that computes these taps and nothing behind the deepest of them.

        Parameters
        ----------
        tap_specs : sequence of TapSpec
            At least one; as `tap_specs` gives them, or some of those.
        device : device
            Where the pass runs. On another device than the CPU, the part of the model that is needed is
            copied there.
        precision : {"float32", "bfloat16", "float16"}
            Arithmetic of the forward pass; reductions are always in float32. ``float32`` on CUDA means it:
            TF32 is off. With less than float32, weights are cast once and batch norms are folded into the
            convolutions before them, where no tap lies between.
        compiled : bool
            Whether `torch.compile` makes kernels for this pass: minutes at the first batch, once a batch size.

        Returns
        -------
        callable
            From a batch on any device, as `inputs` stages or prepares it, to a dict of tap name to float32 tensor
            (N, ...) on `device`. Runs without gradients and changes no state.

        Raises
        ------
        ShapeError
            When called, if the input has another shape than (N, \\*input_shape); texts may be shorter.
        """
        if not tap_specs:
            raise ValueError("forward needs at least one tap")
        target = torch.device(device)
        dtype = _DTYPES[precision]
        model = self._prepare(tap_specs, target, dtype, compiled)
        channels_last, inputs, output = self._channels_last, self.inputs, self._output

        def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
            self._check_input(x)
            with torch.inference_mode(), arithmetic(target, dtype):
                x = inputs.prepare(x.to(target, non_blocking=True))
                if channels_last and x.ndim == 4:
                    x = x.contiguous(memory_format=torch.channels_last)
                features: dict[str, torch.Tensor] = model(x)
                return output.apply(features)

        return run

    def _prepare(
        self, tap_specs: Sequence[TapSpec], target: torch.device, dtype: torch.dtype, compiled: bool
    ) -> nn.Module:
        """The part that is needed, cast, on its device; the last one is kept, for probe and engine want the same."""
        key = (tuple((spec.name, spec.node, spec.reduction) for spec in tap_specs), target, dtype, compiled)
        if key in self._prepared:
            return self._prepared[key]
        self._prepared.clear()  # the memory of the one before is given back first
        truncated = self._upto(tap_specs)
        model: nn.Module = truncated if dtype is torch.float32 else lowered(truncated, dtype)
        if target.type != "cpu" or (compiled and model is truncated):
            model = copy.deepcopy(model).to(target)
        if compiled:
            model = self._graph.compiled(model)
        self._prepared[key] = model
        return model

    def _upto(self, tap_specs: Sequence[TapSpec]) -> nn.Module:
        return self._graph.truncated(
            [(spec.name, spec.node, get_reduction(spec.reduction)) for spec in tap_specs]
        )

    def _check_input(self, x: torch.Tensor) -> None:
        shape = tuple(x.shape[1:])
        longest = self.staging.lengths[-1] if self.staging.lengths else None
        if longest is None and shape == self.input_shape:
            return
        if longest is not None and len(shape) == 1 and shape[0] <= longest:
            return
        expected = ", ".join(map(str, self.input_shape))
        raise ShapeError(f"{self.name}: expected input (N, {expected}), found {tuple(x.shape)}")


def build_backbone(name: str, options: BackboneOptions, root: Path, *, source_dir: Path) -> Backbone:
    """See `embedpipe.backbones.load_backbone`."""
    where = f"params.yaml: backbones.{name}"
    opened = open_model(options, root, source_dir, where)
    module, missing = opened.module, opened.missing
    backbone = Backbone(
        name,
        architecture=opened.architecture,
        module=module,
        digest=weights_digest(module, leave_out=missing),
        inputs=opened.inputs,
        taps=options.taps,
        role=options.role,
        graph=opened.graph,
        output=Output(options.dims, options.l2, options.norm if opened.has_norm else None),
        origin=opened.origin,
        unloaded=missing,
    )
    if missing:
        _refuse_taps_behind(backbone, opened.graph, missing, where)
    return backbone


def resolve_taps(name: str, taps: dict[str, list[str]], graph: Graph) -> list[tuple[str, Reduction]]:
    """Selectors expanded to (node, reduction), each once, in order of depth.

    Raises
    ------
    ConfigError
        One message with every unknown node (near names listed) and every reduction that does not fit.
    """
    where = f"params.yaml: backbones.{name}.taps"
    found: dict[tuple[str, str], Reduction] = {}
    wrong: list[EmbedpipeError] = []
    for selector, reductions in taps.items():
        for node in expand_selector(selector, graph.block_names):
            if node not in graph:
                wrong.append(ConfigError(f"{where}: {_unknown_node(node, graph)}"))
                continue
            for reduction in map(get_reduction, reductions):
                try:
                    tap_shape(graph.info(node), reduction)
                except ShapeError as error:
                    wrong.append(ShapeError(f"{where}.{selector}: node {node}: {error}"))
                found[node, reduction.name] = reduction
    if wrong:
        kind = ShapeError if all(isinstance(error, ShapeError) for error in wrong) else ConfigError
        raise kind("\n".join(str(error) for error in wrong))
    graph.check([node for node, _ in found], where.removesuffix(".taps"))
    order = {info.name: place for place, info in enumerate(graph.infos)}
    ranked = sorted(found.items(), key=lambda item: order[graph.info(item[0][0]).name])
    return [(node, reduction) for (node, _), reduction in ranked]


def tap_shape(info: NodeInfo, reduction: Reduction) -> tuple[int, ...]:
    """Shape of one sample's features at a node after a reduction."""
    return reduction.shape(info.shape, info.layout, num_prefix=info.num_prefix)


def _unknown_node(node: str, graph: Graph) -> str:
    names = graph.names()
    near = difflib.get_close_matches(node, names, n=5, cutoff=0.5)
    near = near or [name for name in names if node.lower() in name.lower()][:5]
    hint = f"near names: {', '.join(near)}; " if near else ""
    return (
        f"unknown node {node!r}; {hint}main stages: {', '.join(graph.block_names)}; "
        "`embedpipe taps <backbone>` lists all"
    )


def _refuse_taps_behind(backbone: Backbone, graph: Graph, missing: frozenset[str], where: str) -> None:
    """A classifier that was not loaded may only lie behind every tap."""
    for spec in backbone.tap_specs():
        read = graph.used_parameters([spec.node]) & missing
        if read:
            raise WeightsError(
                f"{where}: tap {spec.node!r} lies at or behind the classifier, whose weights do not fit "
                f"({', '.join(sorted(read))}); tap an earlier node, or give weights with this classifier"
            )
