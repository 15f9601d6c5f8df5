"""A trained arm as one network: from resized uint8 pixels, or token ids, to probabilities.

Normalisation, the backbone up to the deepest tap, reductions, rounding to the store's dtype, and the head with its
preprocessing. Can be exported; and where all backbones are traced, saved as tensors and a description, and built again
from them without any other weights. Knows nothing of decoding or tokenizers.
"""

# N images or texts, C channels, H W height and width, L tokens, D features, K outputs

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from embedpipe.backbones.backbone import Backbone
from embedpipe.backbones.glyphnet import GlyphNet
from embedpipe.backbones.models import build_seeded, open_architecture
from embedpipe.backbones.opening import build_graph
from embedpipe.backbones.options import BackboneOptions
from embedpipe.backbones.output import Output
from embedpipe.backbones.preprocessing import Preprocessing
from embedpipe.backbones.tokens import TokenInputs
from embedpipe.errors import EmbedpipeError, WeightsError
from embedpipe.heads.layers import HeadModule
from embedpipe.params import validate
from embedpipe.reduce import get_reduction
from embedpipe.spec import TapSpec

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class BodySpec:
    """What one backbone is, but for its weights: JSON values.

    Attributes
    ----------
    options : dict
        As in `backbones:`, with the preprocessing spelled out.
    preprocessing : dict
        Fields of `Preprocessing`; empty for texts.
    num_classes : int or None
        Of a glyphnet's own classifier.
    taps : list of dict
        Node, reduction and dtype of each that is read.
    output : dict
        Fields of `Output`: what is done to features behind the taps.
    rounds : bool
        Whether features are rounded to the dtype of the store, as those were that the head learnt from.
    tokens : dict or None
        Of texts: ``file`` of the tokenizer beside the network, ``max_length``, ``prompt``.
    """

    name: str
    options: dict[str, Any]
    preprocessing: dict[str, Any]
    num_classes: int | None
    taps: list[dict[str, str]]
    output: dict[str, Any]
    rounds: bool
    tokens: dict[str, Any] | None = None

    @property
    def tap_specs(self) -> list[TapSpec]:
        return [TapSpec.from_dict(tap) for tap in self.taps]

    def steps(self) -> Preprocessing:
        """From a decoded image to pixels, and from pixels to the model's input."""
        fields: dict[str, Any] = {
            key: tuple(one) if isinstance(one, list) else one for key, one in self.preprocessing.items()
        }
        return Preprocessing(**fields)


class Body(nn.Module):
    """From pixels to features of taps.

    Parameters
    ----------
    network : Module
        From normalised images, or token ids, to a dict of features by tap.
    spec : BodySpec
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, spec: BodySpec) -> None:
        super().__init__()
        self.network = network
        self._is_text = spec.tokens is not None
        if not self._is_text:
            steps = spec.steps()
            self.register_buffer("mean", torch.tensor(steps.mean).view(-1, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(steps.std).view(-1, 1, 1), persistent=False)
        self._output = Output(**spec.output)
        self._dtypes = {tap.name: _DTYPES[tap.dtype] for tap in spec.tap_specs} if spec.rounds else {}

    def forward(self, staged: torch.Tensor) -> dict[str, torch.Tensor]:
        x = staged if self._is_text else (staged.to(torch.float32) / 255 - self.mean) / self.std
        found: dict[str, torch.Tensor] = self._output.apply(self.network(x))
        return {tap: one.to(self._dtypes.get(tap, one.dtype)).to(torch.float32) for tap, one in found.items()}


class ArmModule(nn.Module):
    """One arm from pixels or token ids to probabilities.

    Parameters
    ----------
    bodies : sequence of Body
    places : sequence of (int, str)
        Body and tap of each part, in the order in which the head has them side by side.
    head : HeadModule
    row_shape : tuple of int
        Shape in which the head sees a row; ``(-1,)`` where it lies flat.
    """

    def __init__(
        self,
        bodies: Sequence[Body],
        places: Sequence[tuple[int, str]],
        head: HeadModule,
        row_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.head = head
        self._places, self._row_shape = list(places), row_shape

    def forward(self, *staged: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, K), or numbers (N,).

        Parameters
        ----------
        staged : tensors, one for each body
            Images, uint8 (N, C, H, W): decoded, resized and cropped as the body's preprocessing says. Texts, int32
            (N, L): token ids, -1 where padding is.
        """
        features = [body(x) for body, x in zip(self.bodies, staged, strict=True)]
        rows = torch.cat([features[body][tap].flatten(1) for body, tap in self._places], dim=1)
        found: torch.Tensor = self.head.predict_proba(rows.reshape(rows.shape[0], *self._row_shape))
        return found


@dataclass(frozen=True)
class ArmSpec:
    """Everything that an `ArmModule` is built from, but for its tensors.

    Attributes
    ----------
    is_program : bool
        Whether a backbone cannot be built again from its description, so that the network is kept as a program.
    """

    bodies: list[BodySpec]
    places: list[tuple[int, str]]
    head: dict[str, Any]
    row_shape: tuple[int, ...]
    is_program: bool = False

    def build(self, networks: Sequence[nn.Module] | None = None, head: HeadModule | None = None) -> ArmModule:
        """The module, with the networks and the head given, or with ones whose tensors are still to be loaded."""
        networks = [_network(body) for body in self.bodies] if networks is None else networks
        bodies = [Body(network, spec) for network, spec in zip(networks, self.bodies, strict=True)]
        head = HeadModule.build(self.head) if head is None else head
        return ArmModule(bodies, self.places, head, self.row_shape).eval().requires_grad_(False)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "bodies": [
                {key: value for key, value in vars(body).items() if (key, value) != ("tokens", None)}
                for body in self.bodies
            ],
            "places": [list(place) for place in self.places],
            "head": self.head,
            "row_shape": list(self.row_shape),
            **({"is_program": True} if self.is_program else {}),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ArmSpec:
        """As `to_dict` gave it."""
        return cls(
            [BodySpec(**body) for body in raw["bodies"]],
            [(int(body), str(tap)) for body, tap in raw["places"]],
            raw["head"],
            tuple(raw["row_shape"]),
            bool(raw.get("is_program", False)),
        )


def body_spec(
    backbone: Backbone, options: BackboneOptions, tap_specs: Sequence[TapSpec], *, rounds: bool
) -> BodySpec:
    """What a backbone is, but for its weights."""
    inputs = backbone.inputs
    steps = dataclasses.asdict(inputs) if isinstance(inputs, Preprocessing) else {}
    tokens = None
    if isinstance(inputs, TokenInputs):
        tokens = {
            "file": f"tokenizer.{backbone.name}.json",
            "max_length": inputs.max_length,
            "prompt": inputs.prompt,
        }
    return BodySpec(
        backbone.name,
        {
            "model": options.model,
            "width": getattr(backbone.module, "width", None),
            "image_px": options.image_px,
        },
        {key: list(one) if isinstance(one, tuple) else one for key, one in steps.items()},
        getattr(backbone.module, "num_classes", None),
        [spec.to_dict() for spec in tap_specs],
        {"dims": options.dims, "l2": options.l2},
        rounds,
        tokens,
    )


def _network(spec: BodySpec) -> fx.GraphModule:
    """The architecture down to the taps, with weights that mean nothing yet."""
    where = f"bundle: {spec.name}"
    steps = spec.steps()
    own = spec.options["model"] in ("pixels", "glyphnet")
    raw = {
        **{key: value for key, value in spec.options.items() if value is not None},
        "taps": {tap.node: [tap.reduction] for tap in spec.tap_specs},
        **({} if spec.options["model"] == "pixels" else {"weights": "random:0"}),
        **({} if own else {"preprocess": {"resize_px": steps.resize_px, "crop_px": steps.crop_px}}),
    }
    try:
        if spec.options["model"] == "glyphnet":
            module: nn.Module = GlyphNet(spec.num_classes or 0, spec.options["width"], steps.crop_px)
        else:
            options = validate(BackboneOptions, raw, where)
            module = build_seeded(open_architecture(options, Path(), where).build, 0)
        module.eval().requires_grad_(False)
        graph = build_graph(module, steps, where)
        taps = [(tap.name, tap.node, get_reduction(tap.reduction)) for tap in spec.tap_specs]
        return graph.truncated(taps)
    except (KeyError, TypeError, EmbedpipeError) as error:
        raise WeightsError(
            f"{where}: this version cannot build {spec.options.get('model')} ({error})"
        ) from error
