"""What extraction would do, before it does anything: samples, bytes, disk, time."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedpipe.extract.blocks import batches_of, segment_task
from embedpipe.extract.pipeline import embed
from embedpipe.extract.saved import read_saved
from embedpipe.extract.session import DISK_FACTOR, Session
from embedpipe.progress import duration_text
from embedpipe.store.disk import write_file
from embedpipe.store.plan import GrowthPlan

CALIBRATION_BATCHES = 3
TRIAL_NBYTES = 8 << 20  # written to find the disk's speed: 10 ms on a solid-state disk


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
    reread_s : float or None
        Seconds to read one sample's features back, at the speed that the disk writes them.
    advice : str
        Whether keeping features pays, against computing them at each use.
    saved : str
        What the cache has saved so far.
    refusal : str or None
        Why the disk will not hold it.
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
    reread_s: float | None
    advice: str
    saved: str
    refusal: str | None
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether the disk will hold it."""
        return self.refusal is None

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "fits": self.fits}


def estimate(session: Session) -> Estimate:
    """Plan, and calibrate on the first samples that are missing. Stores nothing."""
    plan = session.plan()
    num_samples = plan.num_samples
    rate = _calibrate(session, plan) if plan.num_rows_to_compute else None
    saved = read_saved(session.group.path.parent, session.name)
    row_nbytes = {tap.name: tap.row_nbytes for tap in plan.taps}
    speed = _disk_speed(session.group.path)
    reread_s = None if speed is None else sum(row_nbytes.values()) / speed
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
        reread_s=reread_s,
        advice=_advice(rate or saved.rate, reread_s, row_nbytes),
        saved=saved.sentence(),
        refusal=session.disk_refusal(plan),
        notes=session.notes,
    )


def _disk_speed(folder: Path) -> float | None:
    """Bytes a second that reach the disk, by a file that is removed again; None where there is no room for it."""
    data = np.random.default_rng(0).bytes(TRIAL_NBYTES)
    if shutil.disk_usage(folder).free < 4 * TRIAL_NBYTES:
        return None
    path = folder / "journal" / "speed.tmp"
    try:
        began = time.perf_counter()
        write_file(path, data)
        return TRIAL_NBYTES / max(time.perf_counter() - began, 1e-9)
    finally:
        path.unlink(missing_ok=True)


def _advice(rate: float | None, reread_s: float | None, row_nbytes: dict[str, int]) -> str:
    if rate is None or reread_s is None:
        return ""
    ratio = 1.0 / rate / max(reread_s, 1e-12)
    times = f"{ratio:,.0f} times as long" if ratio >= 2 else f"{ratio:.2g} of that"
    facts = (
        f"reading a sample's features back takes {duration_text(reread_s)} at this disk's speed, computing them "
        f"{duration_text(1.0 / rate)}, {times}"
    )
    if ratio >= 2:
        return f"cache: {facts}"
    largest = max(row_nbytes, key=lambda tap: row_nbytes[tap])
    return f"recompute, or keep less: {facts}; the largest tap is {largest}: reduce it more (gap), or leave it out"


def _calibrate(session: Session, plan: GrowthPlan) -> float:
    segment = plan.blocks[0].segments[0]
    size = session.batch
    rows = segment.rows[: size * CALIBRATION_BATCHES]
    task = segment_task(session.wanted, plan, rows, segment.taps)
    batches = list(batches_of(rows, np.arange(len(rows)), size))
    times = None
    for _ in range(2):  # the first round warms caches and kernels up
        times = embed(
            batches, session.computer.reader(task.sources, task.locators, task.parts), session.engine(segment.taps),
            lambda embedded: None,
            decode_threads=session.extract.decode_threads,
        )  # fmt: skip
    assert times is not None
    return times.num_samples / max(times.total_s, 1e-9)
