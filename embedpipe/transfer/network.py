"""The network of a trained arm before its first step: which weights its body has, and which head stands behind it.

Reads files of weights where an arm names one. Knows nothing of schedules or splits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedpipe.backbones.backbone import Backbone
from embedpipe.backbones.weights import read_state_dict
from embedpipe.features.table import PublishedFeatures
from embedpipe.heads.module import head_module
from embedpipe.manifest.kinds import TargetSpec, Truth
from embedpipe.transfer.initialise import LoadReport, load_state
from embedpipe.transfer.live import LiveModel, new_head
from embedpipe.transfer.options import LoadOptions, TrainedOptions
from embedpipe.transfer.start import Start


@dataclass(frozen=True)
class OpenedBackbone:
    """A backbone as its store was made, and what arms need beside it.

    Attributes
    ----------
    backbone : Backbone
    store : PublishedFeatures
    untrained : callable
        From a seed to the same backbone with random weights, drawn as its architecture draws them.
    source_classes : tuple of str or None
        Names of its classifier's outputs; None where nobody named them.
    """

    backbone: Backbone
    store: PublishedFeatures
    untrained: Callable[[int], Backbone]
    source_classes: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Of the backbone in params.yaml."""
        return self.backbone.name


@dataclass(frozen=True)
class Beginning:
    """What a network starts from.

    Attributes
    ----------
    spec : TargetSpec
    truth : array
        Targets of the training samples.
    root : Path
        Folder of params.yaml, where relative paths of weights start.
    seed : int
        Of random weights.
    where : str
        How the user finds the arm; errors start with it.
    """

    spec: TargetSpec
    truth: Truth
    root: Path
    seed: int
    where: str


def build_network(
    opened: OpenedBackbone, start: Start, options: TrainedOptions, beginning: Beginning
) -> tuple[LiveModel, LoadReport | None]:
    """The backbone up to the taps of a start, with a head behind them.

    A new head draws its weights from torch's global generator: call it inside `deterministic`.

    Returns
    -------
    model, and what was loaded; None where every weight is the backbone's own, or none is

    Raises
    ------
    WeightsError
        If a file of weights is absent, cannot be trusted, or is of another architecture.
    ConfigError
        If a part that is to be loaded does not exist.
    """
    backbone, report = opened.backbone, None
    if options.load == "none":
        backbone = opened.untrained(beginning.seed)
    elif isinstance(options.load, LoadOptions):
        backbone = opened.untrained(beginning.seed)
        report = _load(backbone, opened.backbone, options.load, beginning)
    if options.head == "selected":
        head, row_shape = head_module(start.head), start.unit.row_shape
    else:
        head, row_shape = new_head(start.num_features, beginning.spec, beginning.truth), None
    specs = [opened.store.store.tap(part.tap.name).spec for part in start.unit.parts]
    return LiveModel(backbone, specs, head, row_shape), report


def _load(backbone: Backbone, source: Backbone, load: LoadOptions, beginning: Beginning) -> LoadReport:
    where = f"{beginning.where}.load"
    state = source.module.state_dict()
    if load.weights is not None:
        state = read_state_dict(beginning.root / load.weights, f"{where}.weights")
        where = f"{where}.weights: {load.weights}"
    return load_state(
        backbone.module, state, by=load.by, names=load.names, at_least=load.at_least, where=where
    )
