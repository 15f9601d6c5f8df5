"""Options of extraction: the section ``extract:`` of params.yaml."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from embedpipe.params import StrictModel

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds_of(duration: str) -> float:
    """``7h50m``, ``90s``, ``2h`` in seconds.

    Raises
    ------
    ValueError
        If it is none.
    """
    match = _DURATION.fullmatch(duration.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ValueError(f"expected a duration such as 7h50m, 30m or 90s, found {duration!r}")
    return float(total)


def _checked(duration: str) -> str:
    seconds_of(duration)
    return duration


Duration = Annotated[str, AfterValidator(_checked)]


def _decode_threads() -> int:
    return max(1, min(8, (os.cpu_count() or 1)))


class ExtractOptions(StrictModel):
    """How features are computed; what decides their values is part of the store's spec."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where the backbone runs; auto takes CUDA where there is one. One device kind a store.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Arithmetic of the forward pass; auto is resolved once a store and then kept: bfloat16 where "
        "the hardware has it and the built-in batch stays within 2 % of float32, else float32; float32 for pixels, "
        "which are multiplied by nothing.",
    )
    dtype: Literal["float16", "float32"] = Field(
        "float16", description="Storage dtype; float16 halves the disk and costs 5e-4 of relative precision."
    )
    resample: Literal["auto", "pillow", "tensor"] = Field(
        "auto",
        description="What resizes images: pillow gives the bits of torchvision's transforms, tensor takes a fifth of "
        "the time and differs by up to a grey level; auto takes tensor where the precision is less than float32, "
        "and keeps what a store was made with.",
    )
    decoder: Literal["auto", "pillow", "torchcodec"] = Field(
        "auto",
        description="What decodes JPEG files where images are resized as tensors: torchcodec gives Pillow's pixels "
        "in less time; auto takes it where it is installed, and keeps what a store was made with.",
    )
    batch: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = Field(
        32,
        description="Samples a forward pass; a number fixes the bits of each row whatever was added when, auto finds "
        "the fastest once a (model, device, precision) and remembers it. Where memory runs out a pass is halved.",
    )
    compile: bool = Field(
        False,
        description="Make kernels for the forward pass with torch.compile: a minute at the start, which long runs on "
        "a GPU earn back.",
    )
    decode_threads: int = Field(
        default_factory=_decode_threads,
        ge=1,
        le=256,
        description="Threads that read and decode; default one a core, at most 8.",
    )
    max_failed: float = Field(
        0.01, ge=0.0, le=1.0, description="Share of samples that may be unreadable before the run stops."
    )
    on_mismatch: Literal["refuse", "new_group"] = Field(
        "refuse",
        description="What to do when the backbone no longer computes what it stored (the probe differs).",
    )
    stop_after: Duration | None = Field(
        None,
        description="Time given to one run, such as 7h50m: the block in hand is finished, then the run ends with exit "
        "code 75 and the next goes on from there; null: as long as it takes.",
    )
    wait_s: float = Field(
        3600.0,
        ge=0.0,
        description="Seconds to wait for another run that holds the working store; an hour outlasts most, 0 stops.",
    )
    executor: Literal["serial", "dask"] = Field(
        "serial",
        description="Who computes: serial is this process, dask its workers; the bytes are the same. Needs no change "
        "for --task, which shares the work without a scheduler.",
    )
    scheduler: str | None = Field(
        None,
        description="Address of a running dask scheduler, such as tcp://host:8786, whose workers see the working "
        "folder under the same path; null: workers are started on this machine.",
    )
    workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto",
        description="Worker processes where dask is started on this machine, each with a model of its own; auto: one a "
        "GPU that is visible, or two that share the cores. One gains nothing, more than the cores decode no faster.",
    )
    journal_s: float = Field(
        5.0,
        ge=0.0,
        le=60.0,
        description="Seconds between syncs of the journal: the most work that a kill costs.",
    )
