"""What `auto` stands for in one run: the store's spec (precision, resampling) and the batch.

What an existing store was made with is adopted, so that growing it never mixes two. Reads the folder of working
stores and, for the batch, remembers there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from embedpipe.backbones.backbone import Backbone
from embedpipe.backbones.staging import Staging
from embedpipe.errors import ConfigError
from embedpipe.extract.device import MAX_PRECISION_ERROR, as_precision, precision_errors, resolve_precision
from embedpipe.extract.jpeg import tensor_decoder, unusable
from embedpipe.extract.microbatch import Forward, search_batch
from embedpipe.extract.options import ExtractOptions
from embedpipe.extract.probe import probe_features
from embedpipe.extract.seeding import Earlier
from embedpipe.sources.base import Encoded, Source
from embedpipe.sources.decode import DECODER
from embedpipe.spec import BackboneSpec, TapSpec
from embedpipe.store.disk import replace_file
from embedpipe.store.group import find_groups

Features = dict[str, np.ndarray]
BATCHES = "batches.json"


class Builtin:
    """Features of the built-in batch, computed once a precision."""

    def __init__(self, backbone: Backbone, tap_specs: list[TapSpec], device: torch.device) -> None:
        self._backbone, self._tap_specs, self._device = backbone, tap_specs, device
        self._known: dict[str, Features] = {}

    def features(self, precision: str) -> Features:
        if precision not in self._known:
            forward = self._backbone.forward(self._tap_specs, self._device, as_precision(precision))
            self._known[precision] = probe_features(self._backbone, forward)
        return self._known[precision]


@dataclass(frozen=True)
class Resolved:
    """What a run computes with.

    Attributes
    ----------
    backbone : Backbone
        With the preprocessing that was chosen.
    builtin : Builtin
        Its features of the built-in batch.
    errors : mapping of tap name -> float
        Relative L2 error of each tap against float32 on the built-in batch; empty in float32.
    notes : list of str
    """

    backbone: Backbone
    spec: BackboneSpec
    builtin: Builtin
    errors: Mapping[str, float]
    notes: list[str]


def resolve(
    backbone: Backbone,
    extract: ExtractOptions,
    device: torch.device,
    stores_dir: Path,
    earlier: Sequence[Earlier],
    sources: Sequence[Source] = (),
) -> Resolved:
    """Decide precision, resampling and decoder, as an existing store has them or anew.

    Raises
    ------
    ConfigError
        If tensors are to be resampled by a filter that torchvision has for Pillow's images alone, or to be decoded
        by what is not installed.
    """
    tap_specs = backbone.tap_specs(extract.dtype)
    wanted = extract.precision
    if (
        wanted == "auto" and not backbone.has_weights
    ):  # without products there is nothing that less would speed up
        wanted = "float32"
    precisions = ("bfloat16", "float16", "float32") if wanted == "auto" else (wanted,)
    possible = [
        (made, precision, spec_of(made, precision, device, decoder))
        for precision in precisions
        for made in _resamplings(backbone, extract.resample, precision)
        for decoder in _decoders(made, extract.decoder, sources)
    ]
    known = {info.spec for info in find_groups(stores_dir)}
    adopted = next((one for one in possible if one[2] in known), None)
    if adopted is None:
        before = [one.spec for one in earlier]
        adopted = next((one for one in possible if one[2] in before), None)
    if adopted is not None:
        made, precision, spec = adopted
        builtin = Builtin(made, tap_specs, device)
        return Resolved(made, spec, builtin, precision_errors(precision, builtin.features), [])
    builtin = Builtin(backbone, tap_specs, device)
    precision, errors = resolve_precision(wanted, device, builtin.features)
    notes = [_precision_note(backbone.name, precision, errors)] if errors else []
    made = _resamplings(backbone, extract.resample, precision)[0]
    if made is not backbone:
        builtin = Builtin(made, tap_specs, device)
    kept = errors if precision != "float32" else {}
    decoder = _decoders(made, extract.decoder, sources)[0]
    if decoder == tensor_decoder() and extract.decoder == "auto" and (why := unusable()) is not None:
        decoder = DECODER
        notes.append(f"{backbone.name}: Pillow decodes: {why}")
    return Resolved(made, spec_of(made, precision, device, decoder), builtin, kept, notes)


def spec_of(backbone: Backbone, precision: str, device: torch.device, decoder: str = DECODER) -> BackboneSpec:
    """What names the store of a backbone at this precision on this kind of device.

    Parameters
    ----------
    decoder
        Of images that lie as files, unless the backbone has one of its own.
    """
    return BackboneSpec(
        architecture=backbone.architecture,
        weights_digest=backbone.weights_digest,
        decoder=backbone.inputs.decoder or decoder,
        preprocessing=backbone.preprocessing,
        precision=precision,
        device_kind=device.type,
    )


def _resamplings(backbone: Backbone, wanted: str, precision: str) -> list[Backbone]:
    """The backbone with each preprocessing that is possible, the one to begin with first."""
    if wanted == "tensor" and not backbone.can_resample_tensors:
        raise ConfigError(
            f"params.yaml: extract.resample: expected a filter that torchvision has for tensors, backbones."
            f"{backbone.name} resizes by another one; set extract.resample to pillow or auto"
        )
    if wanted == "pillow" or not backbone.can_resample_tensors:
        return [backbone]
    if wanted == "tensor":
        return [backbone.resampling_tensors()]
    both = [backbone, backbone.resampling_tensors()]
    return both if precision == "float32" else both[::-1]


def _decoders(backbone: Backbone, wanted: str, sources: Sequence[Source]) -> list[str]:
    """Each decoder that is possible, the one to begin with first."""
    tensors = backbone.takes_tensors
    found = tensor_decoder()
    if wanted == "torchcodec" and tensors:
        if found is None:
            raise ConfigError(
                "params.yaml: extract.decoder: expected torchcodec 0.16 or newer, found none; install "
                "`embedpipe[torchcodec]`, or set extract.decoder to auto or pillow"
            )
        return [found]
    if wanted == "pillow" or not tensors or found is None:
        return [DECODER]
    both = [DECODER, found]
    return both[::-1] if any(isinstance(source, Encoded) for source in sources) else both


def _precision_note(name: str, precision: str, errors: Mapping[str, float]) -> str:
    worst = max(errors, key=lambda tap: errors[tap])
    refused = f"more than {MAX_PRECISION_ERROR:g}: " if precision == "float32" else ""
    return (
        f"{name}: reduced precision differs from float32 by up to {errors[worst]:.2g} (relative L2, tap {worst}), "
        f"{refused}{precision} is used"
    )


def resolve_batch(
    wanted: int | str,
    spec: BackboneSpec,
    device: torch.device,
    staging: Staging,
    forward: Forward,
    stores_dir: Path,
) -> tuple[int, list[str]]:
    """The number given; or what was found before for this model, device and precision; or a short search."""
    if isinstance(wanted, int):
        return wanted, []
    name, known = _name(spec, device), _remembered(stores_dir)
    if name in known:
        return known[name], []

    def make(size: int) -> torch.Tensor:
        return staging.trial(size, device)

    synchronise = torch.cuda.synchronize if device.type == "cuda" else _nothing
    found = search_batch(forward, make, synchronise)
    _remember(stores_dir, {**known, name: found})
    return found, [f"{name}: batches of {found} are the fastest; remembered"]


def known_pass(spec: BackboneSpec, device: torch.device, batch: int, stores_dir: Path) -> int:
    """Samples a pass that the device held when it last ran out of memory at this batch; else the batch."""
    return min(batch, _remembered(stores_dir).get(_pass_name(spec, device, batch), batch))


def remember_pass(spec: BackboneSpec, device: torch.device, batch: int, size: int, stores_dir: Path) -> None:
    """Have the next run begin with passes of `size`; forgotten where whole batches fit again."""
    known = _remembered(stores_dir)
    after = {**known, _pass_name(spec, device, batch): size}
    if size >= batch:
        del after[_pass_name(spec, device, batch)]
    if after != known:
        _remember(stores_dir, after)


def _name(spec: BackboneSpec, device: torch.device) -> str:
    return f"{spec.architecture} on {_device_name(device)} in {spec.precision}"


def _pass_name(spec: BackboneSpec, device: torch.device, batch: int) -> str:
    return f"{_name(spec, device)}, batches of {batch}: passes"


def _remembered(stores_dir: Path) -> dict[str, int]:
    path = stores_dir / BATCHES
    known: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def _remember(stores_dir: Path, known: Mapping[str, int]) -> None:
    replace_file(stores_dir / BATCHES, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())


def _nothing() -> None:
    """The CPU has finished when the call returns."""


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} with {os.cpu_count()} cores"
