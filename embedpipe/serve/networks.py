"""Transfer arms that answer: from images to probabilities through weights of their own, in float32 as they were judged.

All arms on one backbone share its decoded images. No store has their features, so that every input is computed.
"""

# n inputs of a chunk, m distinct ones, K classes or labels (1 for numbers)

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from embedpipe.backbones.arithmetic import arithmetic
from embedpipe.extract.batches import Embedded
from embedpipe.extract.blocks import batches_of
from embedpipe.extract.engine import open_engine
from embedpipe.extract.pipeline import embed
from embedpipe.serve.arms import TrainedArm
from embedpipe.serve.inputs import Inputs, distinct
from embedpipe.serve.opened import OpenBackbone
from embedpipe.transfer.live import LiveModel
from embedpipe.transfer.saved import SavedArm, load_arm

Scores = npt.NDArray[np.float32]


def open_network(arm: TrainedArm, opened: OpenBackbone) -> LiveModel:
    """The network of a transfer arm, in eval mode, on the CPU.

    Raises
    ------
    SpecMismatch, WeightsError
        If it is of another backbone, or damaged.
    """
    return load_arm(SavedArm(arm.folder, dict(arm.about)), opened.backbone, opened.features)


def row_shape(arm: TrainedArm, opened: OpenBackbone, model: LiveModel) -> tuple[int, ...]:
    """Shape in which the head of a network sees a row of its tap; (-1,) for one that lies flat."""
    if model.row_shape is not None:
        return model.row_shape
    ((_, tap), *_) = arm.parts
    return tuple(opened.features.store.tap(tap).row_shape) if model.head.maps else (-1,)


class Networks:
    """Transfer arms on one backbone.

    Parameters
    ----------
    arms
        Of one task each.
    batch
        Inputs a forward pass.

    Attributes
    ----------
    names : list of str
        ``TASK:ARM`` of each.
    row_nbytes : int
        Of the pixels of an input.
    num_computed : int
        Inputs that went through every arm.
    """

    def __init__(
        self,
        arms: Sequence[TrainedArm],
        opened: OpenBackbone,
        inputs: Inputs,
        batch: int,
        decode_threads: int,
    ) -> None:
        self.arms, self.opened, self.inputs = arms, opened, inputs
        self.batch, self.decode_threads = batch, decode_threads
        self.names = [f"{arm.task}:{arm.arm}" for arm in arms]
        self.row_nbytes = math.prod(opened.backbone.input_shape)
        self.num_computed = 0
        device = opened.device
        models = {arm.task: open_network(arm, opened).to(device) for arm in arms}

        def answer(x_NCHW: torch.Tensor) -> dict[str, torch.Tensor]:
            with torch.inference_mode(), arithmetic(device, torch.float32):
                x_NCHW = x_NCHW.to(device, non_blocking=True)
                return {task: model.probabilities(x_NCHW) for task, model in models.items()}

        self._engine = open_engine(answer, batch, opened.backbone.staging, device)

    def read(self, chunk: npt.NDArray[np.int64]) -> tuple[dict[str, Scores], dict[int, str]]:
        """Scores of the inputs at `chunk`, [n, K] by task, and why some of them have none."""
        _, first, place_of = distinct(self.inputs, chunk)
        values = {arm.task: np.full((len(first), arm.target.width), np.nan, np.float32) for arm in self.arms}
        failures: dict[int, str] = {}

        def write(embedded: Embedded) -> None:
            failures.update(embedded.failures)
            rows = embedded.batch.rows[embedded.ok]
            for arm in self.arms if len(rows) else ():
                scores = embedded.values[arm.task]
                values[arm.task][rows] = scores
                for row in rows[~np.isfinite(scores).all(axis=1)].tolist():
                    failures.setdefault(row, f"the answer of {arm.arm} is not finite")
            self.num_computed += len(rows)

        inputs, stage = self.inputs, self.opened.backbone.inputs.stage
        embed(
            batches_of(np.arange(len(first)), chunk[first], self.batch),
            lambda place: stage(inputs.read(str(place))),
            self._engine,
            write,
            decode_threads=self.decode_threads,
        )
        reasons = {
            int(chunk[n]): failures[int(one)] for n, one in enumerate(place_of) if int(one) in failures
        }
        return {task: scores[place_of] for task, scores in values.items()}, reasons
