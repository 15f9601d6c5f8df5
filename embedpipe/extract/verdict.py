"""What was slow, and the knob to turn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from embedpipe.extract.batches import StepTimes


@dataclass(frozen=True)
class Verdict:
    """The step that the run waited for.

    Attributes
    ----------
    bottleneck : str
        ``decode``, ``forward``, ``write`` or ``nothing`` (no sample was embedded).
    advice : str
        One sentence with the knob to turn.
    rate : float
        Samples a second, over the whole run.
    knob : str
        What to turn, as params.yaml or the shell has it; empty where nothing was slow.
    shares : dict of float
        What the run waited for, as parts of the whole: ``decode``, ``forward``, ``write``.
    """

    bottleneck: str
    advice: str
    rate: float
    knob: str = ""
    shares: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def judge(times: StepTimes, device_kind: str) -> Verdict:
    """The largest of: waiting for samples, the forward pass, waiting for the writer."""
    if times.num_samples == 0:
        return Verdict("nothing", "nothing to embed: the store already holds every sample and tap", 0.0)
    shares = times.shares()
    bottleneck = max(shares, key=lambda step: shares[step])
    knob, advice = _ADVICE[bottleneck, "cpu" if device_kind == "cpu" else "gpu"]
    rate = times.num_samples / max(times.total_s, 1e-9)
    sentence = f"{shares[bottleneck]:.0%} of the time went to {advice}"
    return Verdict(
        bottleneck, sentence, rate, knob, {step: round(share, 4) for step, share in shares.items()}
    )


def shares_text(times: StepTimes) -> str:
    """``decode 4 %, forward 93 %, write 1 %``."""
    return ", ".join(f"{step} {share:.0%}" for step, share in times.shares().items())


_DECODE = (
    "extract.decode_threads",
    "reading and decoding: raise extract.decode_threads, or store smaller images",
)
_WRITE = (
    "EMBEDPIPE_CACHE",
    "the disk: reduce more (gap instead of none), or move EMBEDPIPE_CACHE to a faster disk",
)
_FORWARD = "the backbone: name only the taps you need (nothing behind the deepest is computed), or "
_ADVICE = {
    ("decode", "cpu"): _DECODE,
    ("decode", "gpu"): _DECODE,
    ("write", "cpu"): _WRITE,
    ("write", "gpu"): _WRITE,
    ("forward", "cpu"): ("extract.precision", _FORWARD + "set extract.precision: bfloat16, or use a GPU"),
    ("forward", "gpu"): ("extract.batch", _FORWARD + "set extract.batch: auto or extract.compile: true"),
}
