"""Everything that must hold before a row is computed: backbone, spec, group, lock, probe, plan.

`extract` and `plan` both open a session; only `extract` goes on to run it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.backbone import Backbone
from embedpipe.errors import DiskFullError, ProbeMismatch, StoreLocked
from embedpipe.extract.device import MAX_PRECISION_ERROR, as_precision, resolve_device, resolve_precision
from embedpipe.extract.earlier import EarlierStore
from embedpipe.extract.options import ExtractOptions
from embedpipe.extract.probe import check_probe, probe_images
from embedpipe.extract.samples import WantedSamples, gather
from embedpipe.extract.seeding import Earlier, seed_group
from embedpipe.manifest.table import Manifest
from embedpipe.sources.base import Source
from embedpipe.sources.decode import DECODER
from embedpipe.spec import BackboneSpec, TapSpec, canonical_json
from embedpipe.store.disk import replace_file
from embedpipe.store.group import Group, find_groups, open_group
from embedpipe.store.plan import GrowthPlan
from embedpipe.store.publishing import check_same_filesystem

Features = dict[str, np.ndarray]
DISK_FACTOR = 2.0  # the journal holds a block beside the shards that are made of it


@dataclass
class Session:
    """An open working store and the backbone that fills it."""

    name: str
    options: BackboneOptions
    extract: ExtractOptions
    backbone: Backbone
    device: torch.device
    spec: BackboneSpec
    tap_specs: list[TapSpec]
    wanted: WantedSamples
    group: Group
    notes: list[str] = field(default_factory=list)

    @property
    def tap_names(self) -> list[str]:
        return [tap.name for tap in self.tap_specs]

    @property
    def dtype(self) -> str:
        return self.extract.dtype

    def read(self, index: int) -> torch.Tensor:
        """Decode and preprocess one wanted sample; float32 without N."""
        return self.backbone.preprocess(self.wanted.read(index))

    def forward(self, taps: Sequence[str]) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
        """The backbone down to the deepest of `taps`, with their reductions."""
        specs = [tap for tap in self.tap_specs if tap.name in set(taps)]
        return self.backbone.forward(specs, self.device, as_precision(self.spec.precision))

    def plan(self) -> GrowthPlan:
        """What is missing."""
        return self.group.plan(self.wanted.keys, taps=self.tap_names)

    def check_disk(self, plan: GrowthPlan) -> None:
        """Refuse a job that the disk will not hold, before it starts."""
        free, needed = shutil.disk_usage(self.group.path).free, int(plan.nbytes * DISK_FACTOR)
        if needed > free:
            raise DiskFullError(
                f"{self.group.path}: expected {needed / 1e9:.1f} GB free for {plan.num_rows_to_compute:,} samples "
                f"and their journal, found {free / 1e9:.1f} GB; reduce more (gap instead of none), name fewer taps, "
                "or move the working folder with EMBEDPIPE_CACHE"
            )

    def remember(self) -> None:
        """Note this spec as the backbone's last, so that the next run can say what changed."""
        replace_file(
            _last_path(self.group.path.parent, self.name), canonical_json(self.spec.to_dict()).encode()
        )

    def card(self) -> dict[str, Any]:
        """What the published store says of itself."""
        infos = self.backbone.tap_infos(self.tap_specs)
        shapes = self.backbone.tap_shapes(self.tap_specs)
        return {
            "name": self.name,
            "model": self.options.model,
            "weights": self.options.weights,
            "role": self.options.role,
            "spec": self.spec.to_dict(),
            "taps": {
                tap.name: {
                    **tap.to_dict(),
                    "shape": list(shapes[tap.name]),
                    "depth": round(infos[tap.name].depth, 6),
                }
                for tap in self.tap_specs
            },
        }


@contextlib.contextmanager
def open_session(
    name: str,
    options: BackboneOptions,
    extract: ExtractOptions,
    datasets: Sequence[tuple[Manifest, Source]],
    root: Path,
    source_dir: Path,
    stores_dir: Path,
    destination: Path,
    *,
    earlier: Sequence[EarlierStore] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Session]:
    """Load, resolve, lock, recover, probe, seed; leave with the lock released.

    Parameters
    ----------
    earlier
        Where this backbone's store was published before, the nearest first: the working store takes from them
        what it lacks.
    say
        Told who holds the store while this run waits for it.

    Raises
    ------
    As `extract.run.extract_backbone`.
    """
    stores_dir.mkdir(parents=True, exist_ok=True)
    destination.parent.mkdir(parents=True, exist_ok=True)
    check_same_filesystem(stores_dir, destination.parent)
    backbone = load_backbone(name, options, root, source_dir=source_dir)
    wanted = gather(datasets, name, backbone.modality)
    device = resolve_device(extract.device)
    tap_specs = backbone.tap_specs(extract.dtype)
    builtin = _Builtin(backbone, tap_specs, device)
    before = [Earlier(store) for store in earlier]
    spec, notes = _resolve_spec(stores_dir, backbone, extract.precision, device, builtin, name, before)
    found = builtin.features(spec.precision)
    shapes = backbone.tap_shapes(tap_specs)
    notes += _changed_since_last(_last_path(stores_dir, name), spec, name)
    generation = _generation(stores_dir, spec, found, extract.on_mismatch, name, notes)
    group = open_group(stores_dir, spec, generation=generation)
    with _locked(group, extract.wait_s, say):
        group.recover()
        group.ensure_taps({tap: shapes[tap.name] for tap in tap_specs})
        names = [tap.name for tap in tap_specs]
        notes += seed_group(
            group, before, wanted.keys, names, found, on_mismatch=extract.on_mismatch, name=name
        )
        stored = group.probe() or {}
        check_probe(f"backbones.{name}", stored, found, spec.precision)  # another run may have come first
        new = {tap: found[tap] for tap in found if tap not in stored}
        if new:
            group.save_probe({**stored, **new})
        yield Session(name, options, extract, backbone, device, spec, tap_specs, wanted, group, notes)


@contextlib.contextmanager
def _locked(group: Group, wait_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the group; who holds it now is said before waiting for it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(group.lock())
        except StoreLocked as error:
            if not wait_s:
                raise
            say(f"{error}; waiting for it, at most {wait_s:,.0f} s (extract.wait_s)")
            stack.enter_context(group.lock(wait_s))
        yield


def _last_path(stores_dir: Path, name: str) -> Path:
    return stores_dir / f"{name}.last.json"


def _changed_since_last(path: Path, spec: BackboneSpec, name: str) -> list[str]:
    """Say which field differs from what this backbone was when it last ran."""
    last = BackboneSpec.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else spec
    differences = "; ".join(str(difference) for difference in last.differences(spec))
    return [f"{name}: {differences}: a group of its own beside the old one"] if differences else []


class _Builtin:
    """Features of the built-in batch, computed once a precision."""

    def __init__(self, backbone: Backbone, tap_specs: list[TapSpec], device: torch.device) -> None:
        self._backbone, self._tap_specs, self._device = backbone, tap_specs, device
        self._known: dict[str, Features] = {}

    def features(self, precision: str) -> Features:
        if precision not in self._known:
            x = torch.stack([self._backbone.preprocess(image) for image in probe_images()])
            forward = self._backbone.forward(self._tap_specs, self._device, as_precision(precision))
            self._known[precision] = {tap: v.float().cpu().numpy() for tap, v in forward(x).items()}
        return self._known[precision]


def _resolve_spec(
    stores_dir: Path,
    backbone: Backbone,
    wanted: str,
    device: torch.device,
    builtin: _Builtin,
    name: str,
    before: Sequence[Earlier],
) -> tuple[BackboneSpec, list[str]]:
    """The spec, with `precision: auto` as an existing group has it, or resolved on the built-in batch."""

    def at(precision: str) -> BackboneSpec:
        return BackboneSpec(
            architecture=backbone.architecture,
            weights_digest=backbone.weights_digest,
            decoder=DECODER,
            preprocessing=backbone.preprocessing,
            precision=precision,
            device_kind=device.type,
        )

    groups = find_groups(stores_dir)
    known = {info.spec for info in groups}
    if wanted == "auto":
        candidates = [at(precision) for precision in ("bfloat16", "float16", "float32")]
        adopted = next((spec for spec in candidates if spec in known), None)
        adopted = adopted or next((one.spec for one in before if one.spec in candidates), None)
        if adopted is not None:
            return adopted, []
    precision, errors = resolve_precision(wanted, device, builtin.features)
    spec = at(precision)
    notes = []
    if errors:
        worst = max(errors, key=lambda tap: errors[tap])
        refused = f"more than {MAX_PRECISION_ERROR:g}: " if precision == "float32" else ""
        notes.append(
            f"{name}: reduced precision differs from float32 by up to {errors[worst]:.2g} (relative L2, tap {worst}), "
            f"{refused}{precision} is used"
        )
    return spec, notes


def _generation(
    stores_dir: Path, spec: BackboneSpec, found: Features, on_mismatch: str, name: str, notes: list[str]
) -> int:
    """The newest generation whose probe the backbone still meets; a new one where that is allowed."""
    generations = sorted((g.generation for g in find_groups(stores_dir) if g.spec == spec), reverse=True)
    refusal: ProbeMismatch | None = None
    for generation in generations:
        stored = open_group(stores_dir, spec, generation=generation).probe()
        try:
            check_probe(f"backbones.{name}", stored or {}, found, spec.precision)
            return generation
        except ProbeMismatch as error:
            refusal = refusal or error
    if refusal is None:
        return 0
    if on_mismatch == "refuse":
        raise refusal
    notes.append(f"{name}: the probe differs from every stored group: a new one is opened beside them")
    return generations[0] + 1
