"""What every backbone keeps to, as checks: frozen, deterministic, taps as listed, described whole, rows on their own.

    def test_my_backbone():
        check_backbone("python:my_package.models:encoder", taps={"blocks": ["gap"]})

Runs a backbone on the built-in samples; stores nothing.
"""

# N samples

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.backbone import Backbone
from embedpipe.errors import EmbedpipeError
from embedpipe.extract.probe import probe_images, probe_texts, relative_error
from embedpipe.params import validate
from embedpipe.spec import TapSpec

TOLERANCE = 1e-5
"""Relative L2 by which features in float32 may depend on what else is in the batch: rounding of another path."""


class ContractError(EmbedpipeError, AssertionError):
    """A backbone does not keep to what extraction relies on. The message says what, and where to look."""


def check_backbone(
    model: str, *, taps: Mapping[str, Sequence[str]], root: Path | str = ".", **options: Any
) -> None:
    """Open a backbone as params.yaml would, twice, and run every check.

    Parameters
    ----------
    model, taps, **options
        As under `backbones:` in params.yaml.
    root
        Folder of params.yaml.

    Raises
    ------
    ContractError
        At the first check that fails.
    EmbedpipeError
        If it cannot be opened.
    """
    raw = {"model": model, "taps": {node: list(names) for node, names in taps.items()}, **options}
    checked = validate(BackboneOptions, raw, "check_backbone")
    first, second = (
        load_backbone("checked", checked, Path(root), source_dir=Path(root) / "data/source") for _ in range(2)
    )
    _expect(
        first.weights_digest == second.weights_digest, "weights", "the same each time it is opened", "others"
    )
    _expect(first.preprocessing == second.preprocessing, "preprocessing", "the same each time", "another")
    _same(features(first), features(second), "features of two backbones opened one after the other", 0.0)
    check_opened(first)


def check_opened(backbone: Backbone) -> None:
    """Run every check on an open backbone; see `check_backbone`."""
    for check in (check_frozen, check_spec, check_deterministic, check_taps, check_batch_independent):
        check(backbone)


def check_frozen(backbone: Backbone) -> None:
    """In eval mode, without gradients, and unchanged by a forward pass."""
    training = [name or "the model" for name, part in backbone.module.named_modules() if part.training]
    _expect(not training, "modules", "all in eval mode", f"in training mode: {', '.join(training[:4])}")
    learning = [name for name, value in backbone.module.named_parameters() if value.requires_grad]
    _expect(not learning, "parameters", "none that asks for gradients", ", ".join(learning[:4]))
    before = {key: value.clone() for key, value in backbone.module.state_dict().items()}
    features(backbone)
    changed = [
        key for key, value in backbone.module.state_dict().items() if not torch.equal(value, before[key])
    ]
    _expect(not changed, "state", "as it was before a forward pass", f"changed: {', '.join(changed[:4])}")


def check_spec(backbone: Backbone) -> None:
    """Everything that names a store is there: architecture, weights, preprocessing, modality."""
    _expect(bool(backbone.architecture), "architecture", "a name", repr(backbone.architecture))
    digest = backbone.weights_digest
    _expect(
        len(digest) == 32 and set(digest) <= set("0123456789abcdef"),
        "weights digest",
        "32 hex digits",
        digest,
    )
    _expect(backbone.modality in ("image", "text"), "modality", "image or text", backbone.modality)
    try:
        steps = json.loads(backbone.preprocessing)
    except ValueError:
        steps = None
    _expect(
        bool(steps) and isinstance(steps, dict), "preprocessing", "a JSON object", backbone.preprocessing[:60]
    )


def check_deterministic(backbone: Backbone) -> None:
    """The same samples give the same bits."""
    _same(features(backbone), features(backbone), "features of the same samples a second time", 0.0)


def check_taps(backbone: Backbone) -> None:
    """Taps and nodes give what is announced: shape, float32, finite."""
    specs = backbone.tap_specs()
    _expect(bool(specs), "taps", "at least one", "none")
    known = {name for node in backbone.nodes() for name in (node.name, *node.modules)}
    for name in backbone.blocks:
        _expect(name in known, f"block {name}", "a node that is listed", "none of that name")
    every = [TapSpec(node.name, "none") for node in backbone.nodes()]
    for wanted in (
        specs,
        every if backbone.tap_shapes_of_model(specs) == backbone.tap_shapes(specs) else specs,
    ):
        found, shapes = features(backbone, wanted), backbone.tap_shapes(wanted)
        for tap, values in found.items():
            shape = tuple(values.shape[1:])
            _expect(shape == shapes[tap], f"tap {tap}", f"shape {shapes[tap]} as listed", f"{shape}")
            _expect(values.dtype == np.float32, f"tap {tap}", "float32", str(values.dtype))
        for tap in (spec.name for spec in specs if spec.name in found):
            _expect(bool(np.isfinite(found[tap]).all()), f"tap {tap}", "finite numbers", "NaN or infinity")


def check_batch_independent(backbone: Backbone) -> None:
    """A row says the same alone among padding, among others, and in another order."""
    samples = _samples(backbone)
    forward = backbone.forward(backbone.tap_specs())
    whole = _run(backbone, forward, samples)
    alone = [_run(backbone, forward, [sample], rows=len(samples)) for sample in samples]
    merged = {tap: np.concatenate([one[tap] for one in alone]) for tap in whole}
    _same(whole, merged, "features of samples that stand alone in a batch", TOLERANCE)
    backwards = _run(backbone, forward, samples[::-1])
    _same(
        whole,
        {tap: values[::-1] for tap, values in backwards.items()},
        "features in another order",
        TOLERANCE,
    )


def features(backbone: Backbone, taps: Sequence[TapSpec] | None = None) -> dict[str, np.ndarray]:
    """Features of the built-in samples by tap name, float32 (N, ...), on the CPU."""
    forward = backbone.forward(backbone.tap_specs() if taps is None else taps)
    return _run(backbone, forward, _samples(backbone))


def _samples(backbone: Backbone) -> list[torch.Tensor]:
    samples: list[Any] = probe_images() if backbone.modality == "image" else probe_texts()
    return [backbone.inputs.stage(sample) for sample in samples]


def _run(
    backbone: Backbone,
    forward: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    samples: Sequence[torch.Tensor],
    rows: int | None = None,
) -> dict[str, np.ndarray]:
    """Features in the order of `samples`, computed in batches of `rows` as extraction stages them."""
    staging, num = backbone.staging, len(samples)
    lengths = [staging.padded(len(one)) if staging.lengths else 0 for one in samples]
    out: dict[str, np.ndarray] = {}
    for length in sorted(set(lengths)):
        places = [i for i in range(num) if lengths[i] == length]
        buffer = staging.buffer(rows or num, length or None)
        for row, place in zip(buffer, places, strict=False):
            row[: len(samples[place])] = samples[place]
        for tap, value in forward(buffer).items():
            values = value.numpy()
            out.setdefault(tap, np.zeros((num, *values.shape[1:]), values.dtype))[places] = values[
                : len(places)
            ]
    return out


def _same(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], what: str, tolerance: float
) -> None:
    for tap, reference in expected.items():
        if tolerance == 0.0:
            error = 0.0 if np.array_equal(reference, found[tap]) else float("inf")
        else:
            error = relative_error(reference, found[tap])
        if not error <= tolerance:
            wanted = (
                "the same bits"
                if tolerance == 0.0
                else f"within {tolerance:g} of those among others (relative L2)"
            )
            given = "others" if tolerance == 0.0 else f"{error:.2g}"
            raise ContractError(
                f"tap {tap}: {what}: expected {wanted}, found {given}; look for randomness, layers in training mode, "
                "or anything computed over the batch"
            )


def _expect(holds: bool, what: str, expected: str, found: str) -> None:
    if not holds:
        raise ContractError(f"{what}: expected {expected}, found {found}")
