"""Which parameters learn when, and how fast next to each other: phases, and the recipes made of them.

Everything here is a value over names of parameters; the trainer alone touches tensors. A name is that of a
module or of a parameter, and stands for everything below it; the empty name stands for the whole module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from embedpipe.errors import ConfigError

ALL = ("",)


@dataclass(frozen=True)
class Phase:
    """A number of epochs in which the same parameters learn at the same relative rates.

    Attributes
    ----------
    epochs : int
    trained : tuple of str
        Names of what learns. All else is frozen: no gradient, no decay, and modules in eval mode, so that the
        statistics of its batch norms stay too.
    rates : mapping of str to float
        Factor on the plan's learning rate by name; the longest name that fits a parameter counts, 1 where none does.
    rate : float
        Factor on all of them.
    """

    epochs: int
    trained: tuple[str, ...] = ALL
    rates: Mapping[str, float] = field(default_factory=dict)
    rate: float = 1.0

    def trains(self, name: str) -> bool:
        """Whether a parameter, or everything of a module, learns in this phase."""
        return any(_within(name, prefix) for prefix in self.trained)

    def factor(self, name: str) -> float:
        """Factor on the plan's learning rate for a parameter."""
        fitting = [prefix for prefix in self.rates if _within(name, prefix)]
        return self.rate * (self.rates[max(fitting, key=len)] if fitting else 1.0)


def whole(epochs: int, rates: Mapping[str, float] | None = None) -> tuple[Phase, ...]:
    """Everything learns from the first step."""
    return (Phase(epochs, ALL, dict(rates or {})),)


def surgical(epochs: int, names: Sequence[str]) -> tuple[Phase, ...]:
    """Only what is named learns.

    References
    ----------
    Lee et al. 2023, "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts".
    """
    return (Phase(epochs, tuple(names)),)


def gradual(epochs: int, blocks: Sequence[str], head: Sequence[str]) -> tuple[Phase, ...]:
    """The head alone first, then one block more in each phase, from the top; in the last everything.

    Parameters
    ----------
    epochs : int
        In all; spread evenly, what is left over goes to the last phases.
    blocks : sequence of str
        From the input to the output.

    References
    ----------
    Howard and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3.
    """
    stages = [(*head, *blocks[len(blocks) - num :]) for num in range(len(blocks))] + [ALL]
    share, more = divmod(epochs, len(stages))
    lengths = [share + (place >= len(stages) - more) for place in range(len(stages))]
    return tuple(
        Phase(length, trained) for length, trained in zip(lengths, stages, strict=True) if length > 0
    )


def discriminative(blocks: Sequence[str], head: Sequence[str], decay: float) -> dict[str, float]:
    """Rates that fall by `decay` a block from the head down; what lies before the first block falls once more.

    References
    ----------
    Howard and Ruder 2018, section 3.2 (a decay of 1 / 2.6); Clark et al. 2020, "ELECTRA", table 7 (0.8).
    """
    rates = {name: decay ** (len(blocks) - place) for place, name in enumerate(blocks)}
    return {"": decay ** (len(blocks) + 1), **rates, **dict.fromkeys(head, 1.0)}


def two_phase(epochs: int, source: Sequence[str], first: float, share: float) -> tuple[Phase, ...]:
    """First the source model alone at a small rate, then the whole at the plan's own.

    Parameters
    ----------
    source : sequence of str
        Names of the source model's part.
    first : float
        Factor on the rate in the first phase.
    share : float
        Share of the epochs that the first phase takes, at least one.
    """
    num_first = min(max(1, round(epochs * share)), epochs - 1) if epochs > 1 else 0
    phases = (Phase(num_first, tuple(source), rate=first), Phase(epochs - num_first))
    return phases if num_first else phases[1:]


def check_names(module: nn.Module, names: Iterable[str], where: str) -> None:
    """Check that a module has everything that is named.

    Raises
    ------
    ConfigError
        For a layer that does not exist; lists near names.
    """
    known = [name for name, _ in module.named_modules()] + [name for name, _ in module.named_parameters()]
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        top = [child for child, _ in module.named_children()]
        raise ConfigError(
            f"{where}: the model has no layer {name!r}; "
            f"{'near names: ' + ', '.join(near) if near else 'its parts: ' + ', '.join(top)}"
        )


def _within(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")
