"""Buffers in which samples wait for a backbone: pixels of one shape, or token ids padded to one of a few lengths.

What a row computes may depend on the shape of its batch, never on its neighbours: so a batch has one of a fixed
set of shapes, and which one depends on the row alone. Knows nothing of models.
"""

# N samples, C channels, H W height and width, L tokens

from __future__ import annotations

import bisect
from dataclasses import dataclass

import torch

PADDING = -1  # no token id: says where a text has ended
SHORT = (
    64  # tokens of a text up to which a batch is whole: of longer ones it has fewer rows, for the same work
)


@dataclass(frozen=True)
class Staging:
    """What a batch is staged in.

    Attributes
    ----------
    shape : tuple of int
        Of one sample: (C, H, W), or whatever a model of the user's takes; (L,) of the longest text.
    dtype : torch.dtype
        Of the buffer: pixels are bytes until they are on the device.
    lengths : tuple of int
        Lengths that token ids are padded to, ascending; empty where all samples have one shape.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8
    lengths: tuple[int, ...] = ()

    @classmethod
    def of_texts(cls, longest: int) -> Staging:
        """Token ids, int32, of at most `longest` tokens."""
        return cls((longest,), torch.int32, padded_lengths(longest))

    def buffer(self, num: int, length: int | None = None, *, pin: bool = False) -> torch.Tensor:
        """A buffer of `num` samples: zeros, or ``PADDING`` where texts are.

        Images lie channels last: how they are decoded, and what convolutions want.
        """
        if self.lengths:
            size = (num, length or self.lengths[-1])
            return torch.full(size, PADDING, dtype=self.dtype, pin_memory=pin)
        if len(self.shape) == 3:
            num_channels, height, width = self.shape
            buffer_NHWC = torch.zeros((num, height, width, num_channels), dtype=self.dtype, pin_memory=pin)
            return buffer_NHWC.permute(0, 3, 1, 2)
        return torch.zeros((num, *self.shape), dtype=self.dtype, pin_memory=pin)

    def padded(self, num_tokens: int) -> int:
        """The length that a text of so many tokens is padded to: the first beyond it, or the longest."""
        return self.lengths[min(bisect.bisect_right(self.lengths, num_tokens), len(self.lengths) - 1)]

    def rows(self, batch: int, length: int) -> int:
        """Rows of a batch of texts of one padded length, where `batch` are asked for."""
        return max(1, min(batch, batch * SHORT // length))

    def trial(self, num: int, device: torch.device) -> torch.Tensor:
        """A batch that costs what a usual one does, to time a forward pass with."""
        if self.lengths:
            return torch.zeros((num, min(SHORT, self.lengths[-1])), dtype=self.dtype, device=device)
        return torch.zeros((num, *self.shape), dtype=self.dtype, device=device)


def padded_lengths(longest: int) -> tuple[int, ...]:
    """Multiples of 8 to 64, then four steps to each power of two: little padding, and few batches that stay short.

    A text is padded to the first that is longer than it, so that every batch has a padded place: some models
    leave out the mask where there is none, and compute by another path. The longest is the exception.
    """
    lengths, length = [], 8
    while length < longest:
        lengths.append(length)
        length += max(8, 1 << (length.bit_length() - 3))
    return (*lengths, longest)
