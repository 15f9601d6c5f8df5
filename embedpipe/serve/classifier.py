"""A bundle as a scikit-learn style estimator on raw images (paths, Pillow images or arrays) or on texts.

Decodes, resizes and crops, or makes tokens, as extraction does, then asks the network.
"""

# N images or texts, K classes or labels

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from embedpipe.errors import ConfigError, DataError, ShapeError, UnreadableSample
from embedpipe.serve.asking import ask
from embedpipe.serve.bundle import Bundle, read_bundle
from embedpipe.sources.decode import as_decoded
from embedpipe.sources.files import read_image
from embedpipe.sources.places import Files
from embedpipe.training.devices import find_device

BATCH = 32


class BundledModel(BaseEstimator):  # type: ignore[misc]
    """What a bundle says of images or texts.

    Parameters
    ----------
    path : str or Path
        Folder of a bundle.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    batch : int
        Images or texts a pass.

    Attributes
    ----------
    card_ : dict
        The model card.
    """

    card_: dict[str, Any]

    def __init__(self, path: str | Path, *, device: str = "auto", batch: int = BATCH) -> None:
        self.path = path
        self.device = device
        self.batch = batch

    def open(self, bundle: Bundle) -> BundledModel:
        """Take over what was read."""
        self.card_ = bundle.card
        self._device = find_device(self.device)
        self._module = bundle.module(self._device)
        self._inputs = bundle.inputs()
        self._what = self._inputs[0].modality
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "card_")

    def fit(self, X: Any, y: Any = None) -> BundledModel:
        """A bundle is trained already: always an error.

        Raises
        ------
        ConfigError
            Always; says what trains.
        """
        raise ConfigError("a bundle is trained already; train heads with `embedpipe train` and bundle one")

    def _outputs(self, X: Any) -> np.ndarray:
        """Float32 outputs (N, ...)."""
        if not self.__sklearn_is_fitted__():
            self.open(read_bundle(Path(self.path)))
        outputs = ask(
            self._module,
            self._inputs,
            _listed(X, self._what),
            batch=self.batch,
            device=self._device,
            staged=self._staged,
        )
        finite = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{self._what} {int(np.flatnonzero(~finite)[0])}: its features are not finite in the dtype of the store"
            )
        return outputs

    def _staged(self, place: int, sample: Any) -> list[torch.Tensor]:
        """What each backbone takes of one image or text."""
        try:
            read = _decoded(sample) if self._what == "image" else sample
            return [inputs.stage(read) for inputs in self._inputs]
        except UnreadableSample as error:
            name = f"{sample:.40}" if isinstance(sample, str) else type(sample).__name__
            name = str(sample) if self._what == "image" and isinstance(sample, (str, Path)) else name
            raise UnreadableSample(f"{self._what} {place} ({name}): {error}") from error


class BundledClassifier(ClassifierMixin, BundledModel):  # type: ignore[misc]
    """One of several classes for each image or text.

    Attributes
    ----------
    classes_ : str array, shape (K,)
        Names, in the order of the columns of `predict_proba`.
    """

    @property
    def classes_(self) -> np.ndarray:
        """Names of the classes."""
        return np.array(self.card_["classes"])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float64, shape (N, K)."""
        return self._outputs(X).astype(np.float64)

    def predict(self, X: Any) -> np.ndarray:
        """Names of the most probable classes, shape (N,)."""
        proba_NK = self.predict_proba(X)
        predicted: np.ndarray = self.classes_[proba_NK.argmax(axis=1)]
        return predicted


class BundledLabeller(BundledClassifier):
    """Any of several labels for each image or text; `classes_` are their names."""

    def predict(self, X: Any) -> np.ndarray:
        """Labels that are more likely than not, int64 of 0 and 1, shape (N, K)."""
        return (self.predict_proba(X) > 0.5).astype(np.int64)


class BundledRegressor(RegressorMixin, BundledModel):  # type: ignore[misc]
    """A number, or several, for each image or text."""

    def predict(self, X: Any) -> np.ndarray:
        """Numbers, float64, shape (N,), or (N, M) where there are several."""
        return self._outputs(X).astype(np.float64)


_KINDS: dict[str, type[BundledModel]] = {
    "classes": BundledClassifier,
    "multilabel": BundledLabeller,
    "number": BundledRegressor,
}


def load(path: str | Path, *, device: str = "auto", batch: int = BATCH) -> Any:
    """Open a bundle as an estimator: `predict`, `predict_proba`, `classes_`, `score` on raw images or texts.

    Parameters
    ----------
    path
        Folder that `embedpipe bundle` wrote.
    device
        ``auto`` takes CUDA where there is one; ``cpu`` or ``cuda`` mean it.
    batch
        Images or texts a pass.

    Returns
    -------
    BundledClassifier, BundledLabeller or BundledRegressor

    Raises
    ------
    WeightsError
        If it is no bundle, a damaged one, or of another version.
    ConfigError
        If the device is not there.
    """
    bundle = read_bundle(Path(path))
    kind = _KINDS[bundle.card["kind"]]
    return kind(path, device=device, batch=batch).open(bundle)


def _listed(X: Any, what: str) -> Sequence[Any]:
    if isinstance(X, (str, Path, Image.Image)):
        raise ShapeError(f"expected a list of {what}s, found a single {type(X).__name__}; put it in a list")
    if (
        what == "image"
        and isinstance(X, np.ndarray)
        and X.ndim < 3
        and X.dtype != object
        and X.dtype.kind != "U"
    ):
        raise ShapeError(
            f"expected a list of images, or an array (images, height, width[, channels]), found shape {X.shape}"
        )
    if not isinstance(X, Iterable):
        raise ShapeError(f"expected a list of {what}s, found {type(X).__name__}")
    samples = list(X)
    if not samples:
        raise ShapeError(f"expected a list of {what}s, found an empty one")
    return samples


def _decoded(image: Any) -> Image.Image:
    """An image in mode RGB or L."""
    if isinstance(image, (str, Path)):
        return read_image(Files(), str(image))
    if isinstance(image, Image.Image):
        return as_decoded(image)
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise UnreadableSample(
            f"expected pixels of uint8, 0 to 255, found {array.dtype}; scale and cast them"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise UnreadableSample(
            f"expected pixels of shape (height, width) or (height, width, 1, 3 or 4), found {array.shape}"
        )
    return as_decoded(Image.fromarray(array))
