"""What was slow, and the knob to turn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from embedpipe.extract.pipeline import StepTimes


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
    """

    bottleneck: str
    advice: str
    rate: float

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def judge(times: StepTimes, device_kind: str) -> Verdict:
    """The largest of: waiting for samples, the forward pass, waiting for the writer."""
    if times.num_samples == 0:
        return Verdict("nothing", "nothing to embed: the store already holds every sample and tap", 0.0)
    shares = {"decode": times.wait_read_s, "forward": times.forward_s, "write": times.wait_write_s}
    bottleneck = max(shares, key=lambda step: shares[step])
    advice = {
        "decode": "reading and decoding: raise extract.decode_threads, or store smaller images",
        "forward": "the backbone: name only the taps you need (nothing behind the deepest is computed)"
        + (
            ", or set extract.precision: bfloat16, or use a GPU"
            if device_kind == "cpu"
            else ", or raise extract.batch"
        ),
        "write": "the disk: reduce more (gap instead of none), or move EMBEDPIPE_CACHE to a faster disk",
    }[bottleneck]
    share = shares[bottleneck] / max(times.total_s, 1e-9)
    return Verdict(
        bottleneck, f"{share:.0%} of the time went to {advice}", times.num_samples / max(times.total_s, 1e-9)
    )
