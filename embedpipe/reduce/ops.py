"""The arithmetic of reductions, in float32, on the device where the features are.

Knows nothing of names, options or models: the caller has checked that layout and shape fit.
"""

# N samples, C channels, H W height and width, P places (H·W, or patch tokens), T tokens,
# L tokens of a text with its padding, D features

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

GEM_POWER = 3.0
"""Exponent of `gem`. Radenović et al. start their learnt exponents from 3 and end near it."""
GEM_FLOOR = 1e-6
"""Values below it (all negative ones) count as this much in `gem`, whose root needs positive sums."""


def reduce(family: str, x: torch.Tensor, layout: str, *, k: int = 0, num_prefix: int = 0) -> torch.Tensor:
    """Apply one reduction; see `embedpipe.reduce.registry.Reduction.apply`.

    Autocast is switched off inside: a mean over bfloat16 loses what the forward pass has earned.
    """
    with torch.autocast(x.device.type, enabled=False):
        source, x = x, x.float()
        match family:
            case "none":
                out = x.permute(0, 3, 1, 2) if layout == "NHWC" else x
            case "flatten":
                out = (x.permute(0, 3, 1, 2) if layout == "NHWC" else x).flatten(1)
            case "cls":
                out = x[:, 0]
            case "grid":
                out = grid(_as_map(x, layout, num_prefix), k)
            case _:
                out = _POOLS[family](_places(x, layout, num_prefix))
        out = out.contiguous()
        # A later in-place operation of the model must not reach what was tapped; what is exported has no addresses.
        exported = torch.compiler.is_exporting()
        shared = exported or out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
        return out.clone() if shared else out


def reduce_text(family: str, x_NLD: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
    """Apply one reduction to the tokens of texts; padding counts for nothing.

    Parameters
    ----------
    x_NLD : float tensor, shape (N, L, D)
    mask_NL : bool tensor, shape (N, L)
        True for the first tokens of each text, at least one.
    """
    with torch.autocast(x_NLD.device.type, enabled=False):
        x_NLD, count_N = x_NLD.float(), mask_NL.sum(dim=1)
        inside_NLD = mask_NL[:, :, None]
        match family:
            case "mean_tokens":
                return x_NLD.masked_fill(~inside_NLD, 0.0).sum(dim=1) / count_N[:, None]
            case "mean_std":
                return _mean_std_of_texts(x_NLD, inside_NLD, count_N)
            case "max_tokens":
                return x_NLD.masked_fill(~inside_NLD, -torch.inf).amax(dim=1)
            case "cls":
                return x_NLD[:, 0].clone()
            case "last_token":
                return x_NLD[torch.arange(len(x_NLD), device=x_NLD.device), count_N - 1]
            case "length":
                return count_N[:, None].float()
            case _:
                return x_NLD.masked_fill(~inside_NLD, 0.0)


def _mean_std_of_texts(x_NLD: torch.Tensor, inside_NLD: torch.Tensor, count_N: torch.Tensor) -> torch.Tensor:
    mean_ND = x_NLD.masked_fill(~inside_NLD, 0.0).sum(dim=1) / count_N[:, None]
    squared_NLD = (x_NLD - mean_ND[:, None]).square().masked_fill(~inside_NLD, 0.0)
    std_ND = (squared_NLD.sum(dim=1) / count_N[:, None]).sqrt()
    return torch.cat([mean_ND, std_ND], dim=1)


def gap(x_NCP: torch.Tensor) -> torch.Tensor:
    """Average over places.

    Parameters
    ----------
    x_NCP : float tensor, shape (N, C, P)

    Returns
    -------
    float tensor, shape (N, C)

    References
    ----------
    Lin et al. 2014, "Network in Network", section 3.2.
    """
    return x_NCP.mean(dim=2)


def gmp(x_NCP: torch.Tensor) -> torch.Tensor:
    """Greatest value over places, shape (N, C)."""
    return x_NCP.amax(dim=2)


def gem(x_NCP: torch.Tensor) -> torch.Tensor:
    """Generalised mean over places: ``(mean(max(x, 1e-6)³))^(1/3)``, shape (N, C).

    Between `gap` (exponent 1) and `gmp` (exponent ∞). Made for values ≥ 0, as after a ReLU: negative ones
    count as 1e-6.

    References
    ----------
    Radenović, Tolias, Chum 2018, "Fine-tuning CNN Image Retrieval with No Human Annotation", equation 3.
    """
    return x_NCP.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(dim=2).pow(1.0 / GEM_POWER)


def mean_std(x_NCP: torch.Tensor) -> torch.Tensor:
    """Mean, then standard deviation (divided by P, not P − 1), over places: shape (N, 2·C).

    References
    ----------
    Snyder et al. 2018, "X-Vectors: Robust DNN Embeddings for Speaker Recognition", section 2
    (statistics pooling).
    """
    var_NC, mean_NC = torch.var_mean(x_NCP, dim=2, correction=0)
    return torch.cat([mean_NC, var_NC.clamp(min=0.0).sqrt()], dim=1)


def grid(x_NCHW: torch.Tensor, k: int) -> torch.Tensor:
    """Averages over a k×k grid of cells, as one vector in the order C, row, column: shape (N, C·k·k).

    Cells are those of torch's adaptive average pooling: they overlap where k does not divide the side.

    References
    ----------
    He et al. 2015, "Spatial Pyramid Pooling in Deep Convolutional Networks", section 2.2 (one level of it).
    """
    return F.adaptive_avg_pool2d(x_NCHW, k).flatten(1)


_POOLS = {"gap": gap, "mean_tokens": gap, "gmp": gmp, "max_tokens": gmp, "gem": gem, "mean_std": mean_std}


def _places(x: torch.Tensor, layout: str, num_prefix: int) -> torch.Tensor:
    """Any map or token sequence as (N, C, P)."""
    if layout == "NCHW":
        return x.flatten(2)
    if layout == "NHWC":
        return x.flatten(1, 2).transpose(1, 2)
    return x[:, num_prefix:].transpose(1, 2)


def _as_map(x: torch.Tensor, layout: str, num_prefix: int) -> torch.Tensor:
    """Any map, or the square of patch tokens, as (N, C, H, W)."""
    if layout == "NCHW":
        return x
    if layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    patches_NTD = x[:, num_prefix:]
    side = math.isqrt(patches_NTD.shape[1])
    return patches_NTD.transpose(1, 2).reshape(patches_NTD.shape[0], -1, side, side)
