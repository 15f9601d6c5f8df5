"""What a feature was computed by: the two levels of identity of a store.

`BackboneSpec` names a group (one directory of arrays), `TapSpec` names an array in it. Both are plain
values that serialise to canonical JSON; their fingerprints are what caches are keyed by.
Knows nothing of torch or of files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

FORMAT_VERSION = 2


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """blake2b-128 of the canonical JSON of `value`, 32 hex digits."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class FieldDifference:
    """One field in which two specs differ."""

    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"expected {self.field} {_short(self.expected)}, found {_short(self.found)}"


@dataclass(frozen=True)
class BackboneSpec:
    """Everything that decides what a backbone computes for one sample.

    Attributes
    ----------
    architecture : str
        Model name with its structural options, e.g. ``torchvision:resnet50``.
    weights_digest : str
        blake2b-128 of the tensors actually loaded (names, dtypes, shapes, bytes), not of the file.
    decoder : str
        What turns bytes into pixels or tokens, with its version, e.g. ``pillow 12.0``.
    preprocessing : str
        Canonical JSON of every step between decoder and model.
    precision : str
        Resolved arithmetic of the forward pass: ``float32``, ``bfloat16`` or ``float16``.
    device_kind : str
        ``cpu`` or ``cuda``; one kind a store.
    format_version : int
        Version of the store format.
    """

    architecture: str
    weights_digest: str
    decoder: str
    preprocessing: str
    precision: str
    device_kind: str
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name the group."""
        return digest(dataclasses.asdict(self))

    def differences(self, found: BackboneSpec) -> list[FieldDifference]:
        """Fields in which `found` differs from this spec, in declaration order."""
        return [
            FieldDifference(f.name, getattr(self, f.name), getattr(found, f.name))
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(found, f.name)
        ]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        return cls(**raw)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From JSON; None where it holds no spec, as after a damage."""
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, TypeError):
            return None


@dataclass(frozen=True)
class TapSpec:
    """A place in the backbone plus a reduction and a storage dtype.

    Attributes
    ----------
    node : str
        Graph node name, e.g. ``layer4``.
    reduction : str
        As written in params.yaml, e.g. ``gap`` or ``grid:2``.
    dtype : str
        Storage dtype: ``float16`` or ``float32``.
    """

    node: str
    reduction: str
    dtype: str = "float16"

    @property
    def name(self) -> str:
        """Name of the array, safe as a folder name: ``layer4.grid2``, ``layer4.gap.float32``."""
        base = f"{self.node}.{self.reduction.replace(':', '')}"
        return base if self.dtype == "float16" else f"{base}.{self.dtype}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        return cls(**raw)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
