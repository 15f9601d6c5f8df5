"""The errors a user can meet. Each message says where, what was expected, what was found, what to do.

Every class subclasses `EmbedpipeError` and the nearest builtin, so that library users may catch either.
The command line prints the message alone and exits with `exit_code`.
"""

from __future__ import annotations


class EmbedpipeError(Exception):
    """Base of every error that a user can cause or mend."""

    exit_code = 2


class ConfigError(EmbedpipeError, ValueError):
    """params.yaml, or an option on the command line, is not what it should be."""


class DataError(EmbedpipeError, ValueError):
    """A data set, its labels or its splits cannot be used as they are."""


class UnreadableSample(DataError):
    """One sample could not be decoded. Callers quarantine it by name and go on."""


class TooManyFailed(DataError):
    """More samples failed than `max_failed` allows."""


class ShapeError(EmbedpipeError, ValueError):
    """An array or tensor has another shape than the operation needs."""


class WeightsError(EmbedpipeError, ValueError):
    """Weights do not fit the architecture, or their file cannot be trusted."""


class StoreError(EmbedpipeError, RuntimeError):
    """A feature store is damaged, or cannot do what was asked."""


class SpecMismatch(StoreError):
    """A store was made under another spec. The message names the field that differs."""


class ProbeMismatch(StoreError):
    """The backbone no longer computes the features it stored."""


class StoreLocked(StoreError):
    """Another process holds the working store. The message says who and since when."""


class FeatureValueError(StoreError, ArithmeticError):
    """Features hold NaN, Inf or values beyond their dtype. The message names samples."""


class DiskFullError(StoreError, OSError):
    """No space is left where features are written. Nothing committed is lost."""


class OutOfDeviceMemory(EmbedpipeError, MemoryError):
    """The device cannot hold the forward pass of a single sample."""


class Stopped(EmbedpipeError):
    """A run ended before it was done, as it was asked to. What it computed is kept, and it goes on from there."""

    exit_code = 75  # sysexits' EX_TEMPFAIL: run again


class NotFitted(EmbedpipeError, RuntimeError):
    """A head was asked to predict before it was fitted."""


class TrainingFailed(EmbedpipeError, ArithmeticError):
    """The loss of a training run is no longer a number. The message says at which step."""
