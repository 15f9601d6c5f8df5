"""The card that a published store carries: which backbone it is, what role it plays, which taps it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedpipe.errors import DataError, SpecMismatch
from embedpipe.manifest.table import Manifest
from embedpipe.remote import RemoteFolder
from embedpipe.spec import BackboneSpec
from embedpipe.store import FeatureStore

CARD = "card.json"
Role = Literal["transferred", "random", "pixels"]


@dataclass(frozen=True)
class TapCard:
    """One array of a store. `depth` is 0 at the input of the backbone and 1 at its end."""

    name: str
    node: str
    reduction: str
    depth: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BackboneCard:
    """What a published store says of itself."""

    name: str
    model: str
    weights: str | None
    role: Role
    spec: BackboneSpec
    taps: Mapping[str, TapCard]
    modality: str = "image"

    def check(self, found: BackboneSpec, where: Path) -> None:
        """Compare with the spec that the store itself was made under.

        Raises
        ------
        SpecMismatch
            Naming the first field that differs.
        """
        differences = self.spec.differences(found)
        if differences:
            raise SpecMismatch(
                f"{where}: {'; '.join(str(one) for one in differences)}: card and store are of two runs; "
                f"run `embedpipe extract {self.name}`"
            )


def keys_in(manifest: Manifest, store: FeatureStore) -> npt.NDArray[np.uint8]:
    """Keys by which a store names the samples of a manifest: those of the modality that it embeds, uint8 [n, 16].

    Raises
    ------
    DataError
        If the samples are of several modalities and the store has no card that says which of them it embeds.
    """
    if len(manifest.modalities) == 1:
        return manifest.keys
    return manifest.of(read_card(store.path).modality).keys


def read_card(store_dir: Path | RemoteFolder) -> BackboneCard:
    """Read `card.json` of a published store.

    Raises
    ------
    DataError
        If there is none, or it cannot be read.
    """
    path = store_dir / CARD
    try:
        raw: dict[str, Any] = json.loads(path.read_bytes())
        taps = {
            name: TapCard(name, tap["node"], tap["reduction"], float(tap["depth"]), tuple(tap["shape"]))
            for name, tap in raw["taps"].items()
        }
        return BackboneCard(
            raw["name"],
            raw["model"],
            raw.get("weights"),
            raw["role"],
            BackboneSpec.from_dict(raw["spec"]),
            taps,
            raw.get("modality", "image"),
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run `embedpipe extract {store_dir.name}`") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: expected the card of a store, found something else ({type(error).__name__}: {error}); "
            f"run `embedpipe extract {store_dir.name}`"
        ) from error
