"""Resolve `auto`: which device, which precision. Each answer is said and stands in the store's spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast, get_args

import numpy as np
import torch

from embedpipe.errors import ConfigError
from embedpipe.extract.probe import relative_error

Precision = Literal["float32", "bfloat16", "float16"]
MAX_PRECISION_ERROR = 0.02  # relative L2 against float32 on the built-in batch


def resolve_device(wanted: str) -> torch.device:
    """`auto` takes CUDA where there is one.

    Raises
    ------
    ConfigError
        If CUDA is asked for and missing: the device never changes silently.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "params.yaml: extract.device: expected a CUDA device, found none that torch can use; "
            "set extract.device to cpu or auto"
        )
    return torch.device(wanted)


def as_precision(name: str) -> Precision:
    """The name of a resolved precision, as a spec holds it."""
    assert name in get_args(Precision), name
    return cast(Precision, name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def precision_errors(precision: str, features: Callable[[str], dict[str, np.ndarray]]) -> dict[str, float]:
    """Relative L2 error of each tap against float32 on the built-in batch; empty for float32 itself."""
    if precision == "float32":
        return {}
    reference, found = features("float32"), features(precision)
    return {tap: relative_error(reference[tap], found[tap]) for tap in reference}


def resolve_precision(
    wanted: str, device: torch.device, features: Callable[[str], dict[str, np.ndarray]]
) -> tuple[str, dict[str, float]]:
    """Resolve `auto` on the built-in batch.

    Parameters
    ----------
    features
        Computes the built-in batch's features at a precision.

    Returns
    -------
    precision : str
    errors : relative L2 error against float32 of each tap, empty where float32 was taken unmeasured
    """
    if wanted == "float32" or (wanted == "auto" and not has_bfloat16(device)):
        return "float32", {}
    candidate = "bfloat16" if wanted == "auto" else wanted
    errors = precision_errors(candidate, features)
    if wanted == "auto" and max(errors.values()) > MAX_PRECISION_ERROR:
        return "float32", errors
    return candidate, errors
