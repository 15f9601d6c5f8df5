"""Transfer learning with feature extraction, as one class: fit, predict, score, save, load.

Puts together the frozen source and its store, the mapping, the target's part, and the trainer.
"""

# N inputs, K outputs

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from embedpipe.errors import ConfigError, DataError, NotFitted, WeightsError
from embedpipe.params import did_you_mean
from embedpipe.progress import silent
from embedpipe.terminal import progress_bar, say
from embedpipe.tlfe.files import load_tensors, read_network, write_network
from embedpipe.tlfe.mapping import make_mapping
from embedpipe.tlfe.source import FrozenSource, SourceFeatures, StoredSamples, batches_of
from embedpipe.tlfe.target import Tail, num_outputs, tail_of
from embedpipe.training import History, Recipe, TrainingPlan, check_codes, deterministic, find_device
from embedpipe.training import fit as train
from embedpipe.training.checkpoints import Checkpoints

BATCH = 64
LOADERS = ("train", "val")


class MappedTarget(nn.Module):
    """What is trained: the mapping, and the target from a place on."""

    def __init__(self, mapping: nn.Module, tail: Tail) -> None:
        super().__init__()
        self.mapping = mapping
        self.target = tail.module

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Outputs (N, K) of features, a tensor a layer."""
        outputs: torch.Tensor = self.target(self.mapping(*features))
        return outputs


class TLFE:
    """A target network that learns from layers of a frozen source network.

    Named layers of the source are extracted once into a feature store. A mapping takes them to the shape that the
    target has at a place; the mapping and the target from that place on are trained. Loaders are read once: random
    augmentation in them happens once.

    Parameters
    ----------
    source_model : nn.Module
        With its weights. Is moved to the device, put in eval mode and never trained.
    target_model : nn.Module
        Its part behind the place is trained in place; the rest of it is not used.
    transfer_layers : sequence of str
        Modules of the source whose outputs are used.
    device : str
        ``auto``, ``cpu`` or ``cuda``; one that is not there is an error.
    mapping : str, optional
        ``linear``, ``conv`` or ``layerwise``; chosen from the shapes unless given.
    target_at : str, optional
        Layer of the target whose output the mapped features are; chosen from the shapes unless given.
    target_input_shape : tuple of int, optional
        (C, H, W) of images that the target takes, where it is not that of the loaders.
    store : path, optional
        Folder of the feature store; a temporary one unless given.
    dtype : str
        Of the stored features.
    seed : int
        Of the mapping's weights and the order of samples.

    Attributes
    ----------
    history_ : History
        Loss, score and rate of each epoch of the last fit.
    target_at_ : str
        The place that was chosen.
    num_outputs_ : int
        Outputs of the target: classes, or 1 for a number.

    Examples
    --------
    >>> tlfe = TLFE(source_model=alexnet, target_model=resnet18, transfer_layers=["features"], device="cuda")
    >>> tlfe.fit({"train": trainloader, "val": valloader}, epochs=100, verbose=True, save_best_only=True)
    """

    history_: History
    target_at_: str
    num_outputs_: int

    def __init__(
        self,
        source_model: nn.Module,
        target_model: nn.Module,
        transfer_layers: Sequence[str] = ("features",),
        device: str = "auto",
        *,
        mapping: str | None = None,
        target_at: str | None = None,
        target_input_shape: tuple[int, int, int] | None = None,
        store: str | Path | None = None,
        dtype: str = "float16",
        seed: int = 0,
    ) -> None:
        self.device = find_device(device)
        if isinstance(transfer_layers, str):
            raise ConfigError(
                f"transfer_layers: expected a list, found {transfer_layers!r}; put it in a list"
            )
        self.source = FrozenSource(source_model, transfer_layers, self.device)
        self.features = SourceFeatures(self.source, None if store is None else Path(store), dtype)
        self.target_model = target_model
        self.mapping, self.target_at, self.target_input_shape = mapping, target_at, target_input_shape
        self.seed = seed
        self._network: MappedTarget | None = None
        self._built: dict[str, Any] = {}

    def fit(
        self,
        loaders: Mapping[str, Any],
        epochs: int = 100,
        verbose: bool = True,
        save_best_only: bool = True,
        *,
        target_model: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        batch: int = BATCH,
        patience: int | None = None,
        checkpoints: str | Path | None = None,
    ) -> Self:
        """Extract what the store lacks, then train.

        Parameters
        ----------
        loaders
            ``train`` and, if there is one, ``val``: iterables of (inputs, targets), such as a DataLoader. Targets are
            class codes of 0 to K - 1, or floats.
        epochs
            Most passes over the training features.
        verbose
            Whether progress and the best epoch are said.
        save_best_only
            Whether the weights of the epoch that is best on ``val`` are kept (on the training loss where there is
            none), or those of the last.
        target_model
            Another target from now on; the source is not run again for inputs that it has seen.
        learning_rate, weight_decay
            Of AdamW; the rate falls by a cosine.
        batch
            Samples a step, and a pass of the source.
        patience
            Epochs without a better score after which training stops; None: never early.
        checkpoints
            Folder where the state is kept, to go on from after a kill.

        Raises
        ------
        DataError
            If a loader gives no batch, or labels lie outside the classes.
        ShapeError, ConfigError
            If mapping, layers and target do not fit each other.
        TrainingFailed
            If the loss is no longer finite.
        """
        _check_loaders(loaders)
        self.source.look_again()
        if target_model is not None:
            self.target_model, self._network = target_model, None
        first = next(batches_of(loaders["train"], "train"))[0]
        # what cannot be trained is refused before the source runs for hours
        with deterministic(self.seed, torch.get_num_threads()) as generator:
            shapes = {name: tuple(one.shape[1:]) for name, one in self.source(first[:1]).items()}
            network = self._build(tuple(first.shape[1:]), shapes)
            samples = {name: self._samples(loader, name, batch) for name, loader in loaders.items()}
            is_number = samples["train"].targets.is_floating_point()
            self._check_targets(samples, is_number)
            val = samples.get("val")
            plan = TrainingPlan(
                epochs,
                batch=batch,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                schedule="cosine",
                patience=patience,
                keep="best" if save_best_only else "last",
            )
            with progress_bar("training the target") if verbose else nullcontext(silent) as progress:
                self.history_ = train(
                    network,
                    samples["train"],
                    plan,
                    _square if is_number else nn.functional.cross_entropy,
                    generator,
                    score=None if val is None else lambda module: _score(module, val, batch, self.device),
                    recipe=Recipe(),
                    checkpoints=None if checkpoints is None else Checkpoints(Path(checkpoints)),
                    where="TLFE",
                    progress=progress,
                )
        if verbose:
            history, kept = self.history_, "kept" if save_best_only else "the last is kept"
            on = "validation" if val is not None else "minus the training loss"
            say(
                f"best epoch {history.best_epoch} of {len(history.scores)}: {on} {history.best_score:.4f}, {kept}"
            )
        return self

    def predict_scores(self, X: Any) -> npt.NDArray[np.float32]:
        """Outputs of the target, float32 (N, K), for a tensor, an array or a loader."""
        network = self._fitted()
        network.eval()
        found = []
        with torch.inference_mode():
            for x in _inputs(X):
                features = self.features.rounded(self.source(x))
                found.append(network(features).float().cpu().numpy())
        if not found:
            raise DataError("predict: expected at least one input, found none")
        outputs: npt.NDArray[np.float32] = np.concatenate(found)
        return outputs

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities of the classes, (N, K)."""
        proba: npt.NDArray[np.float64] = (
            torch.from_numpy(self.predict_scores(X)).double().softmax(dim=1).numpy()
        )
        return proba

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Class codes, int64 (N,); or numbers, float32, where the target was trained on numbers."""
        outputs = self.predict_scores(X)
        if self._built["is_number"]:
            return outputs[:, 0] if outputs.shape[1] == 1 else outputs
        codes: npt.NDArray[np.int64] = outputs.argmax(axis=1)
        return codes

    def score(self, loader: Any) -> float:
        """Accuracy on a loader of (inputs, class codes); minus the mean squared error for numbers."""
        self._fitted()
        found, wanted = [], []
        for x, y in batches_of(loader, "score"):
            found.append(self.predict(x))
            wanted.append(y.numpy())
        predicted, truth = np.concatenate(found), np.concatenate(wanted)
        if self._built["is_number"]:
            return -float(np.square(predicted.reshape(truth.shape) - truth).mean())
        return float((predicted == truth).mean())

    def save(self, path: str | Path) -> None:
        """Write the mapping and the trained part of the target as safetensors; the source is not in it."""
        network = self._fitted()
        about = {**self._built, "source": self.source.spec().to_dict()}
        write_network(Path(path), network, about)

    @classmethod
    def load(
        cls,
        path: str | Path,
        source_model: nn.Module,
        target_model: nn.Module,
        device: str = "auto",
        **options: Any,
    ) -> Self:
        """What `save` wrote, behind the same source and in the same kind of target.

        Raises
        ------
        WeightsError
            If the file is a pickle or no such file, or of another source or target.
        """
        about, tensors = read_network(Path(path))
        made = cls(
            source_model,
            target_model,
            about["layers"],
            device,
            mapping=about["mapping"],
            target_at=about["target_at"],
            **options,
        )
        expected, found = about["source"]["weights_digest"], made.source.spec().weights_digest
        if expected != found:
            raise WeightsError(
                f"{path}: expected a source of weights {expected}, found {found}; give the source that it was trained "
                "behind"
            )
        shapes = {name: tuple(one) for name, one in about["shapes"].items()}
        network = made._build(tuple(about["input_shape"]), shapes)
        load_tensors(Path(path), network, tensors)
        network.eval()
        made._built["is_number"] = about["is_number"]
        return made

    def _build(self, input_shape: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> MappedTarget:
        """The network for features of these shapes: the one there is, or a new one."""
        made = {"input_shape": list(input_shape), "shapes": {name: list(one) for name, one in shapes.items()}}
        if self._network is not None and all(self._built[key] == one for key, one in made.items()):
            return self._network
        wanted = self.target_input_shape or input_shape
        if len(wanted) != 3:
            raise ConfigError(
                f"target_input_shape: expected (channels, rows, columns), found {tuple(wanted)}; name a shape that the "
                "target takes"
            )
        source = min(shapes.values(), key=lambda shape: (-len(shape), shape))
        tail = tail_of(self.target_model.to(self.device), wanted, self.target_at, source)
        torch.manual_seed(self.seed)
        mapping = make_mapping(self.mapping, shapes, tail.shape, tail.place).to(self.device)
        self._network = MappedTarget(mapping, tail)
        self.target_at_, self.num_outputs_ = tail.place, num_outputs(tail, self.device)
        self._built = {
            **made,
            "layers": list(self.source.layers),
            "mapping": self.mapping,
            "target_at": tail.place,
            "is_number": False,
        }
        return self._network

    def _samples(self, loader: Any, name: str, batch: int) -> StoredSamples:
        return self.features.samples(*self.features.add(batches_of(loader, name), batch))

    def _check_targets(self, samples: Mapping[str, StoredSamples], is_number: bool) -> None:
        self._built["is_number"] = is_number
        for name, one in samples.items():
            if is_number != one.targets.is_floating_point():
                raise DataError(
                    f"loader {name!r}: expected targets of the same kind as those of 'train', found {one.targets.dtype}"
                )
            if not is_number:
                check_codes(one.targets, self.num_outputs_, f"loader {name!r}")

    def _fitted(self) -> MappedTarget:
        if self._network is None:
            raise NotFitted("TLFE is not fitted yet: call fit, or load a saved one, first")
        return self._network


def _check_loaders(loaders: Mapping[str, Any]) -> None:
    if not isinstance(loaders, Mapping) or "train" not in loaders:
        found = ", ".join(map(str, loaders)) if isinstance(loaders, Mapping) else type(loaders).__name__
        raise ConfigError(f"loaders: expected {{'train': loader, 'val': loader}}, found {found or 'nothing'}")
    for name in loaders:
        if name not in LOADERS:
            raise ConfigError(
                f"loaders: expected train and val, found {name!r}{did_you_mean(str(name), LOADERS)}"
            )
        if isinstance(loaders[name], Iterator):
            raise ConfigError(
                f"loader {name!r}: expected what can be read more than once, such as a DataLoader or a list, found "
                f"{type(loaders[name]).__name__}"
            )


def _inputs(X: Any) -> Iterator[torch.Tensor]:
    if isinstance(X, (torch.Tensor, np.ndarray)):
        yield from torch.split(torch.as_tensor(X), BATCH)
        return
    for one in X:
        yield torch.as_tensor(one[0] if isinstance(one, (list, tuple)) else one)


def _square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(outputs.reshape(targets.shape), targets.float())


def _score(module: nn.Module, val: StoredSamples, batch: int, device: torch.device) -> float:
    """Share of right classes; minus the mean squared error for numbers."""
    total = 0.0
    for index in torch.split(torch.arange(len(val)), batch):
        features, y = val.batch(index)
        outputs = module([one.to(device) for one in features]).float().cpu()
        if y.is_floating_point():
            total -= float(_square(outputs, y)) * len(y)
        else:
            total += float((outputs.argmax(dim=1) == y).sum())
    return total / len(val)
