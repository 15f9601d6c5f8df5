"""What extraction would do, before it does anything: samples, bytes, disk, time."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedpipe.extract.pipeline import Batch, embed
from embedpipe.extract.session import DISK_FACTOR, Session
from embedpipe.store.plan import GrowthPlan

CALIBRATION_BATCHES = 3


@dataclass(frozen=True)
class Estimate:
    """What one `extract` would do.

    Attributes
    ----------
    num_samples, num_to_embed, num_blocks : int
        Samples wanted, forward passes that are missing, and the blocks they are committed in.
    tap_nbytes : dict of int
        Bytes each tap's wanted samples take in all.
    new_nbytes, peak_nbytes, free_nbytes : int
        Bytes added, bytes needed on the way (with the journal), bytes free.
    rate, time_s : float or None
        Samples a second by a short calibration, and seconds left; None when nothing is to be embedded.
    """

    backbone: str
    num_samples: int
    num_to_embed: int
    num_blocks: int
    precision: str
    device: str
    tap_nbytes: dict[str, int]
    new_nbytes: int
    peak_nbytes: int
    free_nbytes: int
    rate: float | None
    time_s: float | None
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether the disk will hold it."""
        return self.peak_nbytes <= self.free_nbytes

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "fits": self.fits}


def estimate(session: Session) -> Estimate:
    """Plan, and calibrate on the first samples that are missing. Stores nothing."""
    plan = session.plan()
    num_samples = len(np.unique(plan.rows_of_wanted))
    rate = _calibrate(session, plan) if plan.num_rows_to_compute else None
    return Estimate(
        backbone=session.name,
        num_samples=num_samples,
        num_to_embed=plan.num_rows_to_compute,
        num_blocks=len(plan.blocks),
        precision=session.spec.precision,
        device=session.spec.device_kind,
        tap_nbytes={tap.name: tap.row_nbytes * num_samples for tap in plan.taps},
        new_nbytes=plan.nbytes,
        peak_nbytes=int(plan.nbytes * DISK_FACTOR),
        free_nbytes=shutil.disk_usage(session.group.path).free,
        rate=rate,
        time_s=plan.num_rows_to_compute / rate if rate else None,
        notes=session.notes,
    )


def _calibrate(session: Session, plan: GrowthPlan) -> float:
    segment = plan.blocks[0].segments[0]
    size = session.batch
    rows = segment.rows[: size * CALIBRATION_BATCHES]
    batches = [
        Batch(rows[i : i + size], plan.wanted_of_row[rows[i : i + size]]) for i in range(0, len(rows), size)
    ]
    times = None
    for _ in range(2):  # the first round warms caches and kernels up
        times = embed(
            batches, session.read, session.engine(segment.taps), lambda embedded: None,
            decode_threads=session.extract.decode_threads,
        )  # fmt: skip
    assert times is not None
    return times.num_samples / max(times.total_s, 1e-9)
