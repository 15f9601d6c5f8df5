"""Resolve `auto`: which device trains, and in which precision."""

from __future__ import annotations

from typing import cast

import torch

from embedpipe.errors import ConfigError
from embedpipe.training.plan import Precision


def find_device(wanted: str, where: str = "device") -> torch.device:
    """A device by name; `auto` takes CUDA where there is one.

    Raises
    ------
    ConfigError
        If CUDA is asked for and missing, or the name is no device: the device never changes silently.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"{where}: expected auto, cpu or cuda, found {wanted!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{where}: expected a CUDA device, found none that torch can use; set it to cpu or auto"
        )
    return device


def find_precision(wanted: str, device: torch.device, where: str = "precision") -> Precision:
    """A precision by name; `auto` takes bfloat16 on a GPU that has it, else float32.

    Raises
    ------
    ConfigError
        If float16 is asked for without CUDA: its gradients need a scaler, which the CPU has none of.
    """
    if wanted == "auto":
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if on_gpu else "float32"
    if wanted == "float16" and device.type != "cuda":
        raise ConfigError(f"{where}: expected bfloat16 or float32 on {device.type}, found float16; change it")
    return cast(Precision, wanted)
