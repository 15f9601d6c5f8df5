"""The built-in batch: does this backbone still compute the features that it stored?

A few images with natural (1/f) statistics are made from integers alone, so that they are equal on every
machine; their features are kept beside the store. Each run computes them again. Cosine similarity is blind
here (another resize still scores 0.997), so the error is the relative L2 distance of each sample's feature
from the batch's mean feature.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from embedpipe.errors import ProbeMismatch

# Relative L2 error that the same backbone may show on another library build, thread count or batch size.
# One convolution scaled by 1.001 gives 5e-4 in float32; bfloat16 against float32 gives about 4e-3.
TOLERANCE = {"float32": 1e-4, "float16": 3e-3, "bfloat16": 1.5e-2}

_SIZES_PX = ((256, 256), (320, 240), (240, 320), (97, 131), (64, 64), (512, 384))


def probe_images() -> list[Image.Image]:
    """Six RGB images of several sizes: value noise over six octaves, amplitude halving with each.

    Returns
    -------
    list of RGB images, the same pixels on every machine (Pillow resizes in fixed point).
    """
    generator = np.random.Generator(np.random.PCG64(20240229))
    images = []
    for width, height in _SIZES_PX:
        total = np.zeros((height, width, 3), dtype=np.int64)
        for octave in range(6):
            cells = 3 * 2**octave
            noise = generator.integers(0, 256, size=(cells, cells, 3), dtype=np.uint8)
            layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            total += np.asarray(layer, dtype=np.int64) * 2 ** (6 - octave)
        low, high = total.min(), total.max()
        images.append(Image.fromarray(((total - low) * 255 // (high - low)).astype(np.uint8)))
    return images


def relative_error(reference: np.ndarray, found: np.ndarray) -> float:
    """Largest per-sample relative L2 error after subtracting the mean feature of the reference.

    Parameters
    ----------
    reference, found : float arrays, shape (N, ...)
    """
    reference_ND = reference.reshape(len(reference), -1).astype(np.float64)
    found_ND = found.reshape(len(found), -1).astype(np.float64)
    centred_ND = reference_ND - reference_ND.mean(axis=0)
    scale_N = np.linalg.norm(centred_ND, axis=1)
    # a tap that gives every sample the same feature has no scale of its own
    floor = 1e-6 * max(1.0, float(np.linalg.norm(reference_ND, axis=1).max()))
    return float((np.linalg.norm(found_ND - reference_ND, axis=1) / np.maximum(scale_N, floor)).max())


def check_probe(
    where: str, stored: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], precision: str
) -> None:
    """Compare the features of the built-in batch with those kept beside the store.

    Raises
    ------
    ProbeMismatch
        If any tap differs by more than the tolerance of the precision.
    """
    tolerance = TOLERANCE[precision]
    for tap, reference in stored.items():
        if tap not in found:
            continue
        shapes_differ = reference.shape != found[tap].shape
        error = float("inf") if shapes_differ else relative_error(reference, found[tap])
        if not error <= tolerance:
            raise ProbeMismatch(
                f"{where}: tap {tap} of the built-in batch: expected within {tolerance:g} of the stored features "
                f"(relative L2, {precision}), found {error:.2g}; the backbone, its preprocessing or a library no "
                "longer computes what the store holds: restore the version that made it, or set "
                "extract.on_mismatch: new_group to embed anew beside it"
            )
