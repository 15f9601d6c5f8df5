"""Train a small module on tensors in memory, the same way every time.

Shared by glyphnet and by the MLP head. Knows nothing of images, features or files.
"""

from embedpipe.training.determinism import deterministic
from embedpipe.training.loop import History, TrainingPlan, fit_module

__all__ = ["History", "TrainingPlan", "deterministic", "fit_module"]
