"""Weights that a network begins with: all of a state dict, part of it, or none; and a report of what was done.

Works on any module and any state dict; `backbones.weights` reads the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from embedpipe.backbones.weights import classifier_keys
from embedpipe.errors import ConfigError, WeightsError
from embedpipe.params import did_you_mean

By = Literal["name", "prefix", "list", "shape"]
_MAX_LISTED = 6


@dataclass(frozen=True)
class LoadReport:
    """What became of a state dict.

    Attributes
    ----------
    loaded : tuple of str
        Tensors of the module that now hold weights of the state.
    missing : tuple of str
        Tensors of the module that it had none for; they keep what the module was built with.
    mismatched : tuple of str
        Those that it has in another shape: ``name (expected, found)``.
    unused : tuple of str
        Tensors of the state that went nowhere.
    reinitialised : tuple of str
        Those of the head that changed size, and so are new: ``name (expected, found)``.
    share : float
        Share of the module's parameters that were loaded, the head left out where it changed size.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = field(default=())
    share: float = 1.0

    def __str__(self) -> str:
        parts = [f"loaded {len(self.loaded)} tensors, {self.share:.1%} of the parameters"]
        for words, names in (
            ("missing", self.missing),
            ("of another shape", self.mismatched),
            ("not used", self.unused),
        ):
            if names:
                parts.append(f"{len(names)} {words} ({_listed(names)})")
        if self.reinitialised:
            parts.append(f"the head changed size and is new ({_listed(self.reinitialised)})")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Counts, with the first names, as JSON values."""
        return {
            "loaded": len(self.loaded),
            "share": round(self.share, 6),
            **{
                name: list(getattr(self, name)[:_MAX_LISTED])
                for name in ("missing", "mismatched", "unused", "reinitialised")
            },
            "num_missing": len(self.missing),
            "num_unused": len(self.unused),
        }


def load_state(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    by: By = "name",
    names: Sequence[str] = (),
    at_least: float = 0.5,
    where: str = "weights",
) -> LoadReport:
    """Copy tensors of a state dict into a module, and say which.

    Parameters
    ----------
    by : {"name", "prefix", "list", "shape"}
        Tensors of the same name; of those the ones below the prefixes `names`, or those listed there; or tensors in
        order of their place, each given to the next of its shape, for networks whose names differ.
    at_least : float
        Share of parameters that has to be loaded. A head that changed size does not count.
    where : str
        How the user finds the weights; errors start with it.

    Raises
    ------
    ConfigError
        If a prefix or name fits no tensor of the module.
    WeightsError
        If less than `at_least` could be loaded: a checkpoint of another architecture.
    """
    own = module.state_dict()
    wanted = _wanted(own, by, names, where)
    sources = _by_shape(own, state) if by == "shape" else {name: name for name in wanted if name in state}
    head = classifier_keys(module)
    taken: dict[str, str] = {}
    mismatched: list[str] = []
    renewed: list[str] = []
    for name, source in sources.items():
        if own[name].shape == state[source].shape:
            taken[name] = source
        else:
            said = f"{name} {tuple(own[name].shape)}, found {tuple(state[source].shape)}"
            (renewed if name in head else mismatched).append(said)
    if renewed:  # one tensor of a head is worth nothing without the others
        taken = {name: source for name, source in taken.items() if name not in head}
    report = LoadReport(
        tuple(taken),
        tuple(name for name in own if name not in sources),
        tuple(mismatched),
        tuple(name for name in state if name not in set(sources.values())),
        tuple(renewed),
        _share(module, taken, head if renewed else set()),
    )
    if report.share < at_least:
        raise WeightsError(
            f"{where}: expected at least {at_least:.0%} of the parameters, {report}: a checkpoint of another "
            "architecture; give the weights of this one, load another part of it, or lower at_least"
        )
    module.load_state_dict({**own, **{name: state[source] for name, source in taken.items()}})
    return report


def _wanted(own: Mapping[str, Any], by: By, names: Sequence[str], where: str) -> list[str]:
    """Tensors of the module that are to be loaded."""
    if by in ("name", "shape"):
        return list(own)
    known = list(own)
    if by == "prefix":
        known = sorted(
            {name.rsplit(".", depth)[0] for name in own for depth in range(1, name.count(".") + 1)}
        )
    found = []
    for one in names:
        fitting = [name for name in own if name == one or (by == "prefix" and name.startswith(f"{one}."))]
        if not fitting:
            raise ConfigError(
                f"{where}: the network has no {'layer' if by == 'prefix' else 'tensor'} {one!r}"
                f"{did_you_mean(one, known)}"
            )
        found += fitting
    return list(dict.fromkeys(found))


def _by_shape(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """For each tensor of the module, in order, the first of the state that is left in its shape and kind of number."""
    left = list(state)
    found: dict[str, str] = {}
    for name, value in own.items():
        for source in left:
            there = state[source]
            same_kind = there.is_floating_point() == value.is_floating_point()
            if there.shape == value.shape and same_kind and _last(name) == _last(source):
                found[name] = source
                left.remove(source)
                break
    return found


def _last(name: str) -> str:
    """What a tensor is in its layer: a mean is no variance, though it has its shape."""
    return name.rpartition(".")[2]


def _share(module: nn.Module, taken: Mapping[str, str], left_out: set[str]) -> float:
    sizes = {name: value.numel() for name, value in module.named_parameters() if name not in left_out}
    total = sum(sizes.values())
    return sum(size for name, size in sizes.items() if name in taken) / total if total else 1.0


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
