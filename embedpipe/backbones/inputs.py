"""What stands between a sample and a backbone: staged one by one, then prepared as a batch on the device.

`Preprocessing` does it for images, `TokenInputs` for texts, `OwnInputs` for a model of the user's.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from embedpipe.backbones.staging import Staging


class Inputs(Protocol):
    """How samples become a backbone's input."""

    @property
    def modality(self) -> str:
        """``image`` or ``text``: what `stage` takes."""
        ...

    @property
    def decoder(self) -> str | None:
        """What makes tokens or arrays of a sample, with its version; None for decoded images."""
        ...

    @property
    def staging(self) -> Staging:
        """The shape of what is staged."""
        ...

    def stage(self, sample: Any, part: int = 0) -> torch.Tensor:
        """What is staged of one sample, or of one part of it. Safe to call from several threads.

        Raises
        ------
        UnreadableSample
            If nothing can be made of it.
        """
        ...

    def prepare(self, staged: torch.Tensor) -> torch.Tensor:
        """The rest of the work, on a staged batch, where the model runs."""
        ...

    def canonical(self) -> str:
        """Canonical JSON of every step: equal steps give equal text."""
        ...
