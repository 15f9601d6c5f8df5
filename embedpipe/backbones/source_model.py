"""The source stage: train glyphnet on the source domain, once, and keep its best weights.

Reads a manifest, its labels and its images; writes weights.safetensors, card.json and history.csv, the same
bytes for the same seed. Knows nothing of the target domain.
"""

# N samples, C channels, H W height and width, K classes

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from embedpipe.backbones.glyphnet import GlyphNet
from embedpipe.backbones.models import glyphnet_preprocessing
from embedpipe.backbones.options import SourceModelOptions
from embedpipe.backbones.weights import weights_digest
from embedpipe.errors import DataError
from embedpipe.manifest.files import write_bytes
from embedpipe.manifest.table import Manifest
from embedpipe.params import did_you_mean
from embedpipe.progress import Progress, silent
from embedpipe.training import History, Recipe, TensorSamples, TrainingPlan, deterministic, fit

CARD_VERSION = 1
_SCORE_BATCH = 1024


class Reader(Protocol):
    """What is needed of a source: one sample by its locator."""

    def read(self, locator: str) -> Any: ...


def train_source(
    options: SourceModelOptions,
    manifest: Manifest,
    labels: pa.Table,
    source: Reader,
    out_dir: Path,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a source model on the training split, and keep the weights best on the validation split.

    Parameters
    ----------
    options : SourceModelOptions
    manifest : Manifest
        Samples of the source domain, images.
    labels : pa.Table
        Column ``sample_id`` and the column that options name. Samples without a label are left out.
    source : Reader
        Opened source of the manifest.
    out_dir : Path
        Where weights.safetensors, card.json and history.csv are written; nothing in them tells the time.
    progress : Progress

    Returns
    -------
    dict
        The card: model, its structure, classes, accuracy on validation and test samples of the source
        domain with 95 % intervals, digest of the weights.

    Raises
    ------
    DataError
        If the label column is absent, has fewer than two classes in the training split, or a split that
        is needed is empty.
    """
    where = f"source model on {options.on!r}"
    if set(manifest.domains) - {"source"}:
        raise DataError(
            f"{where}: expected a data set of domain source, found samples of domain target, which heads are "
            f"judged on; train it on other data, or set datasets.{options.on}.domain: source"
        )
    if manifest.modality != "image":
        raise DataError(f"{where}: expected a data set of images, found {manifest.modality}")
    names = _labels_of(manifest, labels, options.labels, where)
    classes = tuple(sorted({name for name in names[manifest.splits == "train"] if name is not None}))
    if len(classes) < 2:
        raise DataError(
            f"{where}: expected at least two classes of {options.labels!r} in the training split, "
            f"found {len(classes)}"
        )
    code_of = {name: code for code, name in enumerate(classes)}
    codes = np.array([code_of.get(name, -1) for name in names], dtype=np.int64)
    rows = {
        split: np.flatnonzero((manifest.splits == split) & (codes >= 0)) for split in ("train", "val", "test")
    }
    if not len(rows["val"]):
        raise DataError(
            f"{where}: expected labelled samples in the validation split, found none; "
            f"raise datasets.{options.on}.split.val"
        )
    images = _read_images(manifest, source, options.image_px, progress)
    data = {split: (images[index], torch.from_numpy(codes[index])) for split, index in rows.items()}
    module, history = _train(options, len(classes), data, progress)
    accuracy = {
        split: _with_interval(_num_correct(module, *data[split]), len(rows[split]))
        for split in ("val", "test")
        if len(rows[split])
    }
    card = {
        "format_version": CARD_VERSION,
        "model": options.model,
        "width": options.width,
        "image_px": options.image_px,
        "on": options.on,
        "labels": options.labels,
        "classes": list(classes),
        "num_samples": {split: len(index) for split, index in rows.items()},
        "accuracy": accuracy,
        "epochs": options.epochs,
        "best_epoch": history.best_epoch,
        "seed": options.seed,
        "options": options.model_dump(),
        "preprocessing": json.loads(glyphnet_preprocessing(options.image_px).canonical()),
        "weights_digest": weights_digest(module),
    }
    _write(out_dir, module, card, history)
    return card


def _train(
    options: SourceModelOptions,
    num_classes: int,
    data: dict[str, tuple[torch.Tensor, torch.Tensor]],
    progress: Progress,
) -> tuple[nn.Module, History]:
    def loss(scores_NK: torch.Tensor, codes_N: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores_NK, codes_N, label_smoothing=options.label_smoothing)

    def score(module: nn.Module) -> float:
        return _num_correct(module, *data["val"]) / len(data["val"][1])

    with deterministic(options.seed) as generator:
        module = GlyphNet(num_classes, options.width, options.image_px)
        module.to(memory_format=torch.channels_last)
        plan = TrainingPlan(
            epochs=options.epochs,
            batch=options.batch,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            schedule="one_cycle",
        )
        history = fit(
            module,
            TensorSamples(*data["train"]),
            plan,
            loss,
            generator,
            score=score,
            recipe=Recipe(augment=shift_by_a_pixel if options.augment else None),
            where=f"source model on {options.on!r}",
            progress=progress,
        )
    return module.requires_grad_(False), history


def shift_by_a_pixel(x_NCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image by −1, 0 or 1 pixel along both axes; what comes in from outside repeats the edge."""
    num, _, height, width = x_NCHW.shape
    shift_2N = torch.randint(0, 3, (2, num, 1), generator=generator)
    padded = F.pad(x_NCHW, (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    rows_NH = shift_2N[0] + torch.arange(height)
    columns_NW = shift_2N[1] + torch.arange(width)
    moved_NHWC = padded[torch.arange(num)[:, None, None], rows_NH[:, :, None], columns_NW[:, None, :]]
    return moved_NHWC.permute(0, 3, 1, 2)


def _labels_of(manifest: Manifest, labels: pa.Table, column: str, where: str) -> npt.NDArray[np.object_]:
    """Label of each sample of the manifest as text; None where there is none."""
    known = [name for name in labels.column_names if name != "sample_id"]
    if column not in known:
        raise DataError(
            f"{where}: no label column {column!r}{did_you_mean(column, known)}; "
            f"columns: {', '.join(known) or '(none)'}"
        )
    values = labels[column].to_pylist()
    by_id = dict(zip(labels["sample_id"].to_pylist(), values, strict=True))
    out = np.empty(len(manifest), dtype=object)
    for place, sample_id in enumerate(manifest.sample_ids):
        value = by_id.get(sample_id)
        out[place] = None if value is None else str(value)
    return out


def _read_images(manifest: Manifest, source: Reader, image_px: int, progress: Progress) -> torch.Tensor:
    """Every image, preprocessed, float32 (N, 1, H, W) in channels_last."""
    prepare: Callable[[Any], torch.Tensor] = glyphnet_preprocessing(image_px)
    images = torch.empty((len(manifest), 1, image_px, image_px))
    for place, locator in enumerate(manifest.locators):
        images[place] = prepare(source.read(locator))
        if place % 500 == 499 or place + 1 == len(manifest):
            progress(place + 1, len(manifest), "images")
    return images.contiguous(memory_format=torch.channels_last)


def _num_correct(module: nn.Module, x_NCHW: torch.Tensor, codes_N: torch.Tensor) -> int:
    with torch.inference_mode():
        right = 0
        for start in range(0, len(codes_N), _SCORE_BATCH):
            chosen = slice(start, start + _SCORE_BATCH)
            right += int((module(x_NCHW[chosen]).argmax(dim=1) == codes_N[chosen]).sum())
        return right


def _with_interval(num_correct: int, num_samples: int) -> dict[str, float]:
    """Accuracy with its Wilson score interval, 95 %.

    References
    ----------
    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    z = 1.959963984540054
    share = num_correct / num_samples
    spread = z * z / num_samples
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / num_samples + spread / (4 * num_samples)) / (1 + spread)
    rounded = {"value": share, "ci_low": centre - half, "ci_high": centre + half}
    return {key: round(value, 6) for key, value in rounded.items()}


def _write(out_dir: Path, module: nn.Module, card: dict[str, Any], history: History) -> None:
    tensors = {key: value.contiguous() for key, value in sorted(module.state_dict().items())}
    write_bytes(out_dir / "weights.safetensors", safetensors.torch.save(tensors))
    text = json.dumps(card, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    write_bytes(out_dir / "card.json", text.encode())
    table = io.StringIO()
    table.write("epoch,train_loss,val_accuracy\n")
    for epoch, (loss, score) in enumerate(zip(history.losses, history.scores, strict=True), start=1):
        table.write(f"{epoch},{loss:.6f},{score:.6f}\n")
    write_bytes(out_dir / "history.csv", table.getvalue().encode())
