"""Everything that turns a locator into features, once it is decided: backbone, device, precision, batch, sources.

One is opened for each run; knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from embedpipe.backbones.backbone import Backbone
from embedpipe.extract.device import as_precision
from embedpipe.extract.engine import Engine, open_engine
from embedpipe.extract.jpeg import decode_as_tensor, tensor_decoder
from embedpipe.sources.base import Encoded, Source
from embedpipe.sources.decode import DECODER
from embedpipe.spec import TapSpec


@dataclass
class Computer:
    """A backbone on its device, and the sources that it reads.

    Attributes
    ----------
    precision : str
        Resolved.
    batch : int
        Samples a forward pass.
    first_pass : int or None
        Samples of the first passes, where whole batches did not fit before.
    decoder : str
        Of images that lie as files, as the spec names it.
    """

    backbone: Backbone
    device: torch.device
    precision: str
    tap_specs: Sequence[TapSpec]
    batch: int
    compiled: bool
    sources: Sequence[Source]
    first_pass: int | None = None
    decoder: str = DECODER
    _engines: dict[tuple[str, ...], Engine] = field(default_factory=dict, repr=False)
    _ahead: dict[tuple[int, str, int], torch.Tensor] = field(default_factory=dict, repr=False)

    def read(self, source: int, locator: str, part: int = 0) -> torch.Tensor:
        """What is staged of one sample, or of one window of it. Raises `UnreadableSample`."""
        if self._ahead and (staged := self._ahead.pop((source, locator, part), None)) is not None:
            return staged
        return self.backbone.inputs.stage(self._decoded(self.sources[source], locator), part)

    def _decoded(self, source: Source, locator: str) -> Any:
        if self.decoder == tensor_decoder() and isinstance(source, Encoded):
            content = source.read_encoded(locator)
            if content is not None:
                return decode_as_tensor(content)
        return source.read(locator)

    def read_ahead(self, source: int, locator: str, part: int = 0) -> None:
        """Read one row and keep what is staged of it until it is asked for. Raises as `read`."""
        self._ahead[source, locator, part] = self.read(source, locator, part)

    def reader(
        self, sources: np.ndarray, locators: Sequence[str], parts: np.ndarray
    ) -> Callable[[int], torch.Tensor]:
        """`read` of the i-th of several samples."""
        return lambda index: self.read(int(sources[index]), locators[index], int(parts[index]))

    def engine(self, taps: Sequence[str]) -> Engine:
        """The device with the backbone down to the deepest of `taps`, and their reductions."""
        names = tuple(taps)
        if names not in self._engines:
            specs = [tap for tap in self.tap_specs if tap.name in names]
            forward = self.backbone.forward(
                specs, self.device, as_precision(self.precision), compiled=self.compiled
            )
            engine = open_engine(forward, self.batch, self.backbone.staging, self.device)
            engine.micro.size = min(self.batch, self.first_pass or self.batch)
            self._engines[names] = engine
        return self._engines[names]

    def last_pass(self) -> int | None:
        """Samples of the smallest pass as it now stands; None where nothing was computed."""
        return min((engine.micro.size for engine in self._engines.values()), default=None)

    def smallest_pass(self) -> int | None:
        """Samples of the smallest pass that missing memory has forced; None where whole batches fit."""
        halved = [engine.micro.size for engine in self._engines.values() if engine.micro.num_halved]
        return min(halved, default=None)
