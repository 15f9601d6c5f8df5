"""Samples that a source model was trained on and that targets are judged on too, told by content.

Reads manifests alone. A source model that has seen a sample of validation or of the test, whatever label it
had there, makes every figure of its features too good.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embedpipe.manifest.table import Manifest

LEARNT = ("train", "val")
"""Splits of a source domain that its model learns from: val chooses the epoch."""
JUDGED = ("val", "test")


def shared_samples(source: Manifest, target: Manifest) -> dict[str, int]:
    """How many samples of each judged split of `target` have the content of one that a model learnt from.

    Of samples with a text, what is beside it counts: source models learn from that.
    """
    seen = np.zeros(len(target), bool)
    for modality in set(source.modalities) & set(target.modalities) - {"text"}:
        learnt = {key.tobytes() for key in source.of(modality).keys[np.isin(source.splits, LEARNT)]}
        seen |= np.array([key.tobytes() in learnt for key in target.of(modality).keys], bool)
    return {split: int(seen[target.splits == split].sum()) for split in JUDGED}


def overlap_notes(target: Manifest, sources: Mapping[str, Manifest]) -> list[str]:
    """One sentence for each source model that has seen what `target` is judged on.

    Parameters
    ----------
    sources
        Manifest that each source model was trained on, by the model's name.
    """
    notes = []
    for model, source in sources.items():
        shared = shared_samples(source, target)
        if any(shared.values()):
            parts = [f"{num:,} of {split}" for split, num in shared.items() if num]
            notes.append(
                f"{' and '.join(parts)} in {target.dataset} are also in {source.dataset}, where source model "
                f"{model} learnt from them: figures of its features are too good; take them out of one"
            )
    return notes
