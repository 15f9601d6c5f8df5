"""Train a module: one loop, told by values what learns when, how fast, and what is kept.

`fit` is the loop. A `TrainingPlan` says how long and how fast, a `Recipe` what learns when, with which penalty and
augmentation; `Checkpoints` keep the state, so that a killed run goes on to the same end. Knows nothing of images,
features or backbones.
"""

from embedpipe.training.averaging import RunningAverage, interpolate
from embedpipe.training.checkpoints import Checkpoints
from embedpipe.training.determinism import deterministic
from embedpipe.training.devices import find_device, find_precision
from embedpipe.training.history import History
from embedpipe.training.penalties import L2SP
from embedpipe.training.plan import TrainingPlan
from embedpipe.training.policies import Phase, discriminative, gradual, surgical, two_phase, whole
from embedpipe.training.processes import torchrun, world
from embedpipe.training.samples import Samples, TensorSamples, check_codes
from embedpipe.training.trainer import Recipe, fit

__all__ = [
    "L2SP",
    "Checkpoints",
    "History",
    "Phase",
    "Recipe",
    "RunningAverage",
    "Samples",
    "TensorSamples",
    "TrainingPlan",
    "check_codes",
    "deterministic",
    "discriminative",
    "find_device",
    "find_precision",
    "fit",
    "gradual",
    "interpolate",
    "surgical",
    "torchrun",
    "two_phase",
    "whole",
    "world",
]
