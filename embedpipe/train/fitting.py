"""Which backbones a task may learn from: those that embed what its samples are, an image or a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedpipe.errors import ConfigError
from embedpipe.features.table import PublishedFeatures
from embedpipe.manifest.table import Manifest


def fitting_backbones(
    task: str, manifest: Manifest, stores: Mapping[str, PublishedFeatures], named: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Names of the backbones that embed a modality of the data set, and a note on those left out.

    Parameters
    ----------
    named
        Backbones that the task names itself; of them, none is left out.

    Raises
    ------
    ConfigError
        If the task names one that embeds something else, or none is left.
    """
    modality_of = {name: store.card.modality for name, store in stores.items()}
    others = [name for name, modality in modality_of.items() if modality not in manifest.modalities]
    has = f"{manifest.dataset} has {' and '.join(f'{one}s' for one in manifest.modalities)}"
    embed = ", ".join(f"{name!r} ({modality_of[name]}s)" for name in others)
    wrong = [name for name in others if named is not None and name in named]
    if wrong or (stores and len(others) == len(stores)):
        raise ConfigError(
            f"params.yaml: tasks.{task}{'.backbones' if wrong else ''}: {has}: expected backbones that embed those, "
            f"found {embed}; name others, or put the task on another data set"
        )
    fitting = [name for name in stores if name not in others]
    return fitting, [f"left out, since {has}: backbones {embed}"] if others else []


def present_in(
    manifest: Manifest, stores: Mapping[str, PublishedFeatures]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which samples of the manifest each store has features of, by name of the backbone; bool [n]."""
    return {name: store.present(manifest.of(store.card.modality).keys) for name, store in stores.items()}
