"""The built-in batch: does this backbone still compute the features that it stored?

A few images with natural (1/f) statistics are made from integers alone, so that they are equal on every
machine, and a few texts are of several scripts and lengths; their features are kept beside the store. Each run
computes them again. Cosine similarity is blind here (another resize still scores 0.997), so the error is the
relative L2 distance of each sample's feature from the batch's mean feature.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from embedpipe.backbones.backbone import Backbone, Forward
from embedpipe.errors import ProbeMismatch

# Relative L2 error that the same backbone may show on another library build, thread count or batch size.
# One convolution scaled by 1.001 gives 5e-4 in float32; bfloat16 against float32 gives about 4e-3.
TOLERANCE = {"float32": 1e-4, "float16": 3e-3, "bfloat16": 1.5e-2}

_TEXTS = (
    "Yes.",
    "Free entry in 2 a weekly competition! Text WIN to 80086 now.",
    "The committee met on 14 March 1997 and adjourned without a decision.",
    "Wer nichts weiß, muss alles glauben.",
    "昨天下午，图书馆里只剩下几个学生在看书。",
    "Москва — столица России.",
    "def mean(values): return sum(values) / len(values)  # fails where there are none",
    "It was late in the afternoon when the ferry reached the island. Nobody stood on the quay but an old man with a "
    "dog, who looked at the passengers as though he were counting them. The rain had stopped; water ran from the "
    "roofs into barrels, and somewhere behind the church a door was banging in the wind.",
    "A frozen model is expensive to run and cheap to learn from. Its first layers keep what words look like, its "
    "middle layers how they go together, its last what they were trained to tell apart; which of them serves another "
    "task best is seldom known beforehand. So it is run once over everything, each layer's output is kept, and small "
    "models are trained on what was kept. They take seconds, which leaves time to ask whether a difference between "
    "two of them is more than chance.\n\nThis text is here because its features say, each time a store is opened, "
    "whether the tokenizer, the weights and the arithmetic are still what they were: 3 + 4 = 7; £12.50; 25 % off; "
    "naïve façade; https://example.org/a?b=c#d.",
)

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


def probe_texts() -> list[str]:
    """Nine texts: one word to two paragraphs, several scripts, digits, code and signs."""
    return list(_TEXTS)


def probe_features(backbone: Backbone, forward: Forward) -> dict[str, np.ndarray]:
    """Features of the built-in batch by tap name, float32; texts in batches of their lengths, as in a run."""
    if backbone.modality != "text":
        images = torch.stack([backbone.preprocess(image) for image in probe_images()])
        return {tap: value.float().cpu().numpy() for tap, value in forward(images).items()}
    staging = backbone.staging
    staged = [backbone.inputs.stage(text) for text in probe_texts()]
    if not staging.lengths:
        found = forward(backbone.inputs.prepare(torch.stack(staged)))
        return {tap: value.float().cpu().numpy() for tap, value in found.items()}
    lengths = [staging.padded(len(ids)) for ids in staged]
    rows: dict[str, list[np.ndarray]] = {}
    of_length: dict[int, dict[str, np.ndarray]] = {}
    for length in sorted(set(lengths)):
        chosen = [ids for ids, own in zip(staged, lengths, strict=True) if own == length]
        buffer = staging.buffer(len(chosen), length)
        for place, ids in zip(buffer, chosen, strict=True):
            place[: len(ids)] = ids
        of_length[length] = {tap: value.float().cpu().numpy() for tap, value in forward(buffer).items()}
    taken = dict.fromkeys(lengths, 0)
    for length in lengths:
        for tap, value in of_length[length].items():
            rows.setdefault(tap, []).append(value[taken[length]])
        taken[length] += 1
    return {tap: np.stack(values) for tap, values in rows.items()}


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
