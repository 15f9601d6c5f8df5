"""Save and load heads: `head.json` and `head.safetensors`, or `head.skops` for scikit-learn's own.

Equal heads give equal bytes; nothing is ever pickled. Knows heads by their registry names alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from embedpipe.errors import ConfigError, NotFitted, WeightsError
from embedpipe.heads.base import Head, HeadState
from embedpipe.heads.registry import head_class
from embedpipe.heads.tensors import digest_of, read_tensors, write_tensors

FORMAT_VERSION = 1
CARD, TENSORS, ARCHIVE = "head.json", "head.safetensors", "head.skops"


def save_head(head: Head, folder: Path) -> None:
    """See `embedpipe.heads.registry.save_head`."""
    if not hasattr(head, "converged_"):
        raise NotFitted(f"{type(head).__name__} is not fitted yet: there is nothing to save in {folder}")
    state = head.state()
    tensors = dict(state.tensors)
    card: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "family": head.family,
        "kind": head.kind,
        "params": {name: _plain(value) for name, value in head.get_params(deep=False).items()},
        "values": {name: _plain(value) for name, value in state.values.items()},
        "num_features": int(head.n_features_in_),
    }
    labels: np.ndarray | None = getattr(head, "classes_", None)
    if labels is not None:
        if labels.dtype.kind in "biuf":
            tensors["classes_"] = labels
        else:
            card["classes"] = [str(label) for label in labels]
    names = getattr(head, "feature_names_in_", None)
    if names is not None:
        card["feature_names"] = [str(name) for name in names]
    archive = head.archive()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, TENSORS, lambda path: write_tensors(path, tensors, state.far))
    if archive is None:
        (folder / ARCHIVE).unlink(missing_ok=True)
    else:
        _write(folder, ARCHIVE, lambda path: path.write_bytes(archive))
    written = [TENSORS] if archive is None else [TENSORS, ARCHIVE]
    card["digests"] = {name: digest_of(folder / name) for name in written}
    # the card goes last: a folder with a card is whole
    text = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    _write(folder, CARD, lambda path: path.write_text(text, encoding="utf-8"))


def _write(folder: Path, name: str, write: Callable[[Path], object]) -> None:
    temporary = folder / f".{name}.{os.getpid()}"
    write(temporary)
    os.replace(temporary, folder / name)


def load_head(folder: Path) -> Head:
    """See `embedpipe.heads.registry.load_head`."""
    card = _read_card(folder)
    for name, wanted in card["digests"].items():
        _check(folder, name, wanted)
    try:
        head = head_class(card["family"], card["kind"])(**card["params"])
        if TENSORS not in card["digests"]:
            raise KeyError(TENSORS)
        tensors = read_tensors(folder / TENSORS)
        if "classes" in card or "classes_" in tensors:
            labels = tensors.pop("classes_") if "classes_" in tensors else np.array(card["classes"])
            setattr(head, "classes_", labels)  # noqa: B010
        if "feature_names" in card:
            head.feature_names_in_ = np.array(card["feature_names"], dtype=object)
        head.n_features_in_ = card["num_features"]
        head.restore(HeadState(tensors, card["values"]))
        if ARCHIVE in card["digests"]:
            head.restore_archive((folder / ARCHIVE).read_bytes())
    except (KeyError, TypeError, ConfigError, SafetensorError) as error:
        raise WeightsError(
            f"{folder}: not a head that this version can read ({error}); train it again"
        ) from error
    return head


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{folder}: expected a saved head, found no readable {CARD}; train it again"
        ) from error
    except ValueError as error:
        raise WeightsError(
            f"{folder / CARD}: damaged: not valid JSON ({error}); train the head again"
        ) from error
    known = isinstance(card, dict) and {"format_version", "family", "kind", "params"} <= card.keys()
    if not known or not isinstance(card.get("digests"), dict):
        raise WeightsError(f"{folder / CARD}: not the card of a saved head; train the head again")
    if card["format_version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{folder / CARD}: expected head format {FORMAT_VERSION}, found {card['format_version']}; "
            "train the head again"
        )
    checked: dict[str, Any] = card
    return checked


def _check(folder: Path, name: str, wanted: str) -> None:
    """Refuse a file that is not the one that was written."""
    try:
        found = digest_of(folder / name)
    except OSError as error:
        raise WeightsError(
            f"{folder}: expected {name} beside {CARD}, found none; train the head again"
        ) from error
    if found != wanted:
        raise WeightsError(
            f"{folder / name}: damaged: expected blake2b {wanted}, found {found}; train the head again"
        )


def _plain(value: Any) -> Any:
    """A JSON value equal to `value`."""
    if isinstance(value, np.generic):
        return value.item()
    return value
