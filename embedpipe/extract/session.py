"""Everything that must hold before a row is computed: backbone, spec, group, lock, probe, plan.

`extract` and `plan` both open a session; only `extract` goes on to run it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.backbones.backbone import Backbone
from embedpipe.backbones.tokens import TokenInputs
from embedpipe.errors import DiskFullError, ProbeMismatch, StoreLocked, UnreadableSample
from embedpipe.extract.computer import Computer
from embedpipe.extract.device import as_precision, resolve_device
from embedpipe.extract.earlier import EarlierStore
from embedpipe.extract.engine import Engine
from embedpipe.extract.options import ExtractOptions
from embedpipe.extract.probe import check_probe
from embedpipe.extract.resolve import Features, known_pass, remember_pass, resolve, resolve_batch
from embedpipe.extract.samples import WantedSamples, gather
from embedpipe.extract.seeding import Earlier, seed_group
from embedpipe.extract.windows import Windows, lay_out, windows_of, with_windows
from embedpipe.manifest.listed import ListedSamples
from embedpipe.sources.base import Source, WindowOptions
from embedpipe.spec import BackboneSpec, TapSpec, canonical_json
from embedpipe.store.disk import replace_file
from embedpipe.store.group import Group, find_groups, open_group
from embedpipe.store.plan import GrowthPlan
from embedpipe.store.publishing import check_same_filesystem

Rows = Mapping[str, WindowOptions | None]
DISK_FACTOR = 2.0  # the journal holds a block beside the shards that are made of it


@dataclass
class Session:
    """An open working store and the backbone that fills it."""

    name: str
    options: BackboneOptions
    extract: ExtractOptions
    spec: BackboneSpec
    tap_specs: list[TapSpec]
    wanted: WantedSamples
    group: Group
    computer: Computer
    precision_errors: Mapping[str, float]
    root: Path
    source_dir: Path
    notes: list[str] = field(default_factory=list)
    windows: Windows | None = None

    @property
    def tap_names(self) -> list[str]:
        return [tap.name for tap in self.tap_specs]

    @property
    def backbone(self) -> Backbone:
        return self.computer.backbone

    @property
    def batch(self) -> int:
        """Samples a forward pass."""
        return self.computer.batch

    def read(self, index: int) -> torch.Tensor:
        """What is staged of one wanted row."""
        some, wanted = np.array([index]), self.wanted
        source, locator = int(wanted.source_index(some)[0]), wanted.locators(some)[0]
        return self.computer.read(source, locator, int(wanted.parts[index]))

    def warm_up(self, plan: GrowthPlan) -> None:
        """Read the first sample that is missing: what its source imports and opens is no cost of decoding.

        It is kept until it is asked for, since reading twice may be dear.
        """
        index = int(plan.wanted_of_row[plan.blocks[0].segments[0].rows[0]])
        some, wanted = np.array([index]), self.wanted
        source, locator = int(wanted.source_index(some)[0]), wanted.locators(some)[0]
        with contextlib.suppress(UnreadableSample):
            self.computer.read_ahead(source, locator, int(wanted.parts[index]))

    def engine(self, taps: Sequence[str]) -> Engine:
        """The device with the backbone down to the deepest of `taps`, and their reductions."""
        return self.computer.engine(taps)

    def remember_pass(self) -> None:
        """Note the passes that the device holds, so that the next run need not find out by running out of memory."""
        size = self.computer.last_pass()
        if size is not None:
            remember_pass(self.spec, self.computer.device, self.batch, size, self.group.path.parent)

    def memory_notes(self) -> list[str]:
        """Where the device could not hold whole batches, in a sentence."""
        size = self.computer.smallest_pass()
        if size is None:
            return []
        return [
            f"{self.name}: the device's memory ran out with batches of {self.batch}; they went through in passes "
            f"of {size}; free memory, or set extract.batch: {size}"
        ]

    def add_cut(self, num: int) -> None:
        """Count texts that another process has cut."""
        if isinstance(self.backbone.inputs, TokenInputs):
            self.backbone.inputs.cut.add(num)

    def cut_notes(self) -> list[str]:
        """How many texts were longer than the backbone takes, in a sentence."""
        inputs = self.backbone.inputs
        num = inputs.cut.num if isinstance(inputs, TokenInputs) else 0
        if not num:
            return []
        assert isinstance(inputs, TokenInputs)
        return [
            f"{self.name}: {num:,} texts embedded now were longer than {inputs.max_length} tokens and were cut there; "
            "datasets.<name>.rows: {tokens, overlap} embeds all of them as windows"
        ]

    def plan(self, limit: int | None = None) -> GrowthPlan:
        """What is missing, or the first `limit` samples of it."""
        whole = self.group.plan(self.wanted.keys, self.wanted.parts, self.tap_names)
        if limit is None or whole.num_rows_to_compute <= limit:
            return whole
        rows = np.zeros(0, np.int64)
        for block in whole.blocks:
            rows = np.concatenate([rows, np.sort(np.concatenate([s.rows for s in block.segments]))])[:limit]
            if len(rows) == limit:
                break
        chosen = np.sort(whole.wanted_of_row[rows])
        part = self.group.plan(self.wanted.keys[chosen], self.wanted.parts[chosen], self.tap_names)
        return dataclasses.replace(
            part,
            wanted_keys=self.wanted.keys,
            wanted_parts=self.wanted.parts,
            rows_of_wanted=whole.rows_of_wanted[:0],
            wanted_of_row=np.where(part.wanted_of_row >= 0, chosen[part.wanted_of_row], -1),
        )

    def check_disk(self, plan: GrowthPlan) -> None:
        """Refuse a job that the disk will not hold, before it starts."""
        refusal = self.disk_refusal(plan)
        if refusal is not None:
            raise DiskFullError(refusal)

    def disk_refusal(self, plan: GrowthPlan) -> str | None:
        """Why the disk will not hold it, or None."""
        free, needed = shutil.disk_usage(self.group.path).free, int(plan.nbytes * DISK_FACTOR)
        if needed <= free:
            return None
        return (
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
        errors = {tap: float(f"{error:.2g}") for tap, error in self.precision_errors.items()}
        shapes = self.backbone.tap_shapes(self.tap_specs)
        return {
            "name": self.name,
            "model": self.options.model,
            "weights": self.options.weights,
            "role": self.options.role,
            "modality": self.backbone.modality,
            "spec": self.spec.to_dict(),
            **({"origin": self.backbone.origin} if self.backbone.origin else {}),
            **({"precision_errors": errors} if errors else {}),
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
    datasets: Sequence[tuple[ListedSamples, Source]],
    root: Path,
    source_dir: Path,
    stores_dir: Path,
    destination: Path,
    *,
    earlier: Sequence[EarlierStore] = (),
    rows: Rows | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Session]:
    """Load, resolve, lock, recover, probe, seed; leave with the lock released.

    Parameters
    ----------
    earlier
        Where this backbone's store was published before, the nearest first: the working store takes from them
        what it lacks.
    rows
        ``rows:`` of data sets by name, where long texts are windows.
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
    own = [m.dataset for m, _ in datasets if backbone.modality in m.modalities]
    windows = windows_of(backbone, {dataset: (rows or {}).get(dataset) for dataset in own})
    backbone = with_windows(backbone, windows, f"params.yaml: datasets.{own[0]}.rows")
    wanted = lay_out(wanted, backbone, stores_dir, threads=extract.decode_threads)
    device = resolve_device(extract.device)
    before = [Earlier(store) for store in earlier]
    with _uncounted(backbone):
        resolved = resolve(backbone, extract, device, stores_dir, before, wanted.sources)
    backbone, spec, notes = resolved.backbone, resolved.spec, list(resolved.notes)
    tap_specs = backbone.tap_specs(extract.dtype)
    with _uncounted(backbone):
        found = resolved.builtin.features(spec.precision)
    shapes = backbone.tap_shapes(tap_specs)
    notes += _changed_since_last(_last_path(stores_dir, name), spec, name)
    generation = _generation(stores_dir, spec, found, extract.on_mismatch, name, notes)
    group = open_group(stores_dir, spec, generation=generation)
    with _locked(group, extract.wait_s, say):
        group.recover()
        group.ensure_taps({tap: shapes[tap.name] for tap in tap_specs})
        names = [tap.name for tap in tap_specs]
        notes += seed_group(
            group, before, wanted.keys, wanted.parts, names, found, on_mismatch=extract.on_mismatch, name=name
        )
        stored = group.probe() or {}
        check_probe(f"backbones.{name}", stored, found, spec.precision)  # another run may have come first
        new = {tap: found[tap] for tap in found if tap not in stored}
        if new:
            group.save_probe({**stored, **new})
        forward = backbone.forward(tap_specs, device, as_precision(spec.precision), compiled=extract.compile)
        batch, found_notes = resolve_batch(extract.batch, spec, device, backbone.staging, forward, stores_dir)
        first_pass = known_pass(spec, device, batch, stores_dir)
        computer = Computer(
            backbone,
            device,
            spec.precision,
            tap_specs,
            batch,
            extract.compile,
            wanted.sources,
            first_pass,
            spec.decoder,
        )
        yield Session(
            name,
            options,
            extract,
            spec,
            tap_specs,
            wanted,
            group,
            computer,
            resolved.errors,
            root.resolve(),
            source_dir.resolve(),
            notes + found_notes,
            windows,
        )


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


@contextlib.contextmanager
def _uncounted(backbone: Backbone) -> Iterator[None]:
    """Texts that are staged for a trial alone, and cut there, are none of the user's."""
    cut = backbone.inputs.cut if isinstance(backbone.inputs, TokenInputs) else None
    before = 0 if cut is None else cut.num
    try:
        yield
    finally:
        if cut is not None:
            cut.num = before


def _last_path(stores_dir: Path, name: str) -> Path:
    return stores_dir / f"{name}.last.json"


def _changed_since_last(path: Path, spec: BackboneSpec, name: str) -> list[str]:
    """Say which field differs from what this backbone was when it last ran."""
    last = BackboneSpec.parse(path.read_text("utf-8", "replace")) if path.exists() else None
    differences = "; ".join(str(difference) for difference in (last or spec).differences(spec))
    return [f"{name}: {differences}: a group of its own beside the old one"] if differences else []


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
