"""Read a trained arm back: `data/transfer/<T>/models/<arm>` and its backbone give the network that predicted.

Knows nothing of params.yaml: the backbone is opened by whoever asks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from embedpipe.backbones.backbone import Backbone
from embedpipe.errors import DataError, SpecMismatch, WeightsError
from embedpipe.features.table import PublishedFeatures
from embedpipe.heads.layers import HeadModule
from embedpipe.manifest.kinds import TargetSpec
from embedpipe.transfer.arms import CARD, MODEL
from embedpipe.transfer.live import LiveModel

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SavedArm:
    """A trained arm on disk.

    Attributes
    ----------
    folder : Path
    card : dict
        Task, recipe, backbone, taps, architecture and preprocessing.
    """

    folder: Path
    card: dict[str, Any]

    @property
    def spec(self) -> TargetSpec:
        """What its outputs are."""
        return TargetSpec.from_dict(self.card)

    @property
    def backbone(self) -> str:
        """Name of its backbone in params.yaml."""
        return str(self.card["backbone"])


def read_arm(folder: Path) -> SavedArm:
    """The card of a trained arm.

    Raises
    ------
    DataError
        If there is none.
    WeightsError
        If it is damaged, or of another format.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: expected a trained arm, found none; run `embedpipe transfer`") from error
    except ValueError as error:
        raise WeightsError(
            f"{folder / CARD}: damaged: not valid JSON; run `embedpipe transfer` again"
        ) from error
    if not isinstance(card, dict) or card.get("format_version") != FORMAT_VERSION:
        found = card.get("format_version") if isinstance(card, dict) else type(card).__name__
        raise WeightsError(
            f"{folder / CARD}: expected the card of a trained arm, format {FORMAT_VERSION}, found {found}; "
            "run `embedpipe transfer` again"
        )
    return SavedArm(folder, card)


def load_arm(arm: SavedArm, backbone: Backbone, store: PublishedFeatures) -> LiveModel:
    """The network of a trained arm, in eval mode, on the CPU.

    Parameters
    ----------
    backbone
        Of the arm's architecture and preprocessing; its own weights do not matter.
    store
        Of the backbone, for the taps that the head reads.

    Raises
    ------
    SpecMismatch
        If the backbone is another one.
    WeightsError
        If the tensors do not fit it, or are damaged.
    """
    for name in ("architecture", "preprocessing"):
        mine, there = getattr(backbone, name), arm.card[name]
        if mine != there:
            raise SpecMismatch(
                f"{arm.folder}: expected a backbone of {name} {there}, found {mine}; run `embedpipe transfer` again"
            )
    specs = [store.store.tap(tap).spec for tap in arm.card["taps"]]
    shape = arm.card["row_shape"]
    head = HeadModule.build(arm.card["head"])
    model = LiveModel(backbone, specs, head, None if shape is None else tuple(shape))
    try:
        model.load_state_dict(safetensors.torch.load_file(arm.folder / MODEL))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{arm.folder / MODEL}: expected the tensors of {arm.card['arm']}, found something else "
            f"({str(error).splitlines()[0][:160]}); run `embedpipe transfer` again"
        ) from error
    return model.eval().requires_grad_(False)
