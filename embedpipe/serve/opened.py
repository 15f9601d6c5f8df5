"""A backbone opened to answer for new inputs: the one that computed the features which heads were trained on.

Weights, preprocessing and precision must be those of the published store, and the built-in batch must come out as it
did then; where that cannot be, nothing is predicted. Where the store holds long texts as windows, so does this. Knows
nothing of heads or inputs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.backbone import Backbone
from embedpipe.backbones.tokens import TokenInputs
from embedpipe.errors import ConfigError, SpecMismatch
from embedpipe.extract.device import resolve_device
from embedpipe.extract.jpeg import decoder_like
from embedpipe.extract.probe import check_probe
from embedpipe.extract.resolve import Builtin, spec_of
from embedpipe.extract.windows import with_windows
from embedpipe.features.table import PublishedFeatures, open_features
from embedpipe.params import did_you_mean
from embedpipe.spec import TapSpec
from embedpipe.store.group import probe_path


@dataclass(frozen=True)
class OpenBackbone:
    """A backbone, and the published features that it computed.

    Attributes
    ----------
    taps : dict of name -> TapSpec
        Those that are wanted, in order of depth.
    precision : str
        Of the published store.
    notes : list of str
        In what this is not the machine that computed the features.
    """

    backbone: Backbone
    features: PublishedFeatures
    taps: dict[str, TapSpec]
    precision: str
    device: torch.device
    notes: list[str]

    @property
    def name(self) -> str:
        return self.backbone.name

    def with_taps(self, names: Collection[str]) -> OpenBackbone:
        """The same, of which no other taps are wanted."""
        return dataclasses.replace(self, taps={tap: spec for tap, spec in self.taps.items() if tap in names})

    def rounded(self, tap: str, values: np.ndarray) -> np.ndarray:
        """Features as the store would give them back: rounded to its dtype, float32."""
        with np.errstate(over="ignore"):  # what lies beyond it becomes infinite, and is reported
            return values.astype(self.taps[tap].dtype).astype(np.float32)


def open_backbone(
    name: str,
    options: BackboneOptions,
    store_dir: Path,
    taps: Sequence[str],
    *,
    root: Path,
    source_dir: Path,
    device: str = "auto",
) -> OpenBackbone:
    """Load a backbone and prove that it is the one of the store.

    Parameters
    ----------
    taps
        Names of those that are wanted.
    device
        As `extract.device`.

    Raises
    ------
    SpecMismatch
        If weights, architecture or preprocessing are not those that the features were computed with.
    ProbeMismatch
        If the built-in batch comes out otherwise.
    ConfigError
        If the store lacks a tap, or the device is not there.
    """
    features = open_features(store_dir)
    for tap in taps:
        if tap not in features.store.taps:
            raise ConfigError(
                f"{store_dir}: no tap {tap!r}{did_you_mean(tap, features.taps)}; it holds {', '.join(features.taps)}: "
                "run `dvc repro`, so that heads and features are of one run"
            )
    found_device = resolve_device(device)
    stored = features.card.spec
    backbone = load_backbone(name, options, root, source_dir=source_dir)
    backbone = backbone.resampling_as(stored.preprocessing)
    windows = json.loads(stored.preprocessing).get("windows")
    if windows is not None and isinstance(backbone.inputs, TokenInputs):
        backbone = with_windows(backbone, (windows["tokens"], windows["overlap"]), f"{store_dir}: windows")
    notes = []
    decoder = decoder_like(stored.decoder)
    for difference in stored.differences(spec_of(backbone, stored.precision, found_device, decoder)):
        if difference.field not in ("device_kind", "decoder"):
            raise SpecMismatch(
                f"params.yaml: backbones.{name}: {difference}: heads were trained on other features than this backbone "
                "computes; run `dvc repro`"
            )
        notes.append(f"{name}: {difference}: predictions may differ within rounding")
    names = [tap for tap in features.taps if tap in taps]
    specs = {tap: features.store.tap(tap).spec for tap in names}
    _check_probe(name, features, backbone, specs, stored.precision, found_device)
    return OpenBackbone(backbone, features, specs, stored.precision, found_device, notes)


def _check_probe(
    name: str,
    features: PublishedFeatures,
    backbone: Backbone,
    specs: dict[str, TapSpec],
    precision: str,
    device: torch.device,
) -> None:
    paths = {tap: features.store_dir / probe_path(tap) for tap in specs}
    stored = {tap: np.load(path, allow_pickle=False) for tap, path in paths.items() if path.is_file()}
    if stored:
        found = Builtin(backbone, list(specs.values()), device).features(precision)
        check_probe(f"backbones.{name}", stored, found, precision)


def as_float32(opened: OpenBackbone) -> OpenBackbone:
    """The same backbone in float32, whatever the precision of the store."""
    return dataclasses.replace(opened, precision="float32")
