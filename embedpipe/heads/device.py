"""Where a head is fitted: the processor, or a CUDA device that was asked for. It never changes silently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedpipe.errors import ConfigError

if TYPE_CHECKING:
    import torch

CPU = "cpu"


def device_of(name: str, who: str) -> torch.device:
    """The device called `name`.

    Parameters
    ----------
    name
        ``cpu``, ``cuda`` or ``cuda:<number>``.
    who
        The family that asks.

    Raises
    ------
    ConfigError
        If torch has no such device.
    """
    import torch

    kind, _, number = name.partition(":")
    known = kind in (CPU, "cuda") and (not number or (kind == "cuda" and number.isdecimal()))
    if not known:
        raise ConfigError(f"{who}: device: expected cpu, cuda or cuda:<number>, found {name!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{who}: device: expected a CUDA device for {name!r}, found {torch.cuda.device_count()} that torch can "
            "use; leave `device` out to fit on the processor"
        )
    return torch.device(name)


def on_device(array: np.ndarray | None, device: torch.device) -> torch.Tensor | None:
    """An array on a device; None as it is."""
    import torch

    return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)
