"""The families of heads: their names, options, grids, fitting, saving and loading.

Holds dotted names, not imports: reading params.yaml costs neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embedpipe.errors import ConfigError
from embedpipe.heads import neural_options as neural
from embedpipe.heads import options as opt
from embedpipe.heads.options import HeadOptions, product
from embedpipe.heads.presets import with_preset
from embedpipe.heads.rows import MEMORY_NBYTES, Rows
from embedpipe.params import did_you_mean, validate

if TYPE_CHECKING:
    import numpy as np

    from embedpipe.heads.base import Head

Kind = Literal["classes", "multilabel", "number", "dense", "dense_number"]
Inputs = Literal["rows", "maps", "tokens", "taps"]
SKLEARN = "sklearn:"


@dataclass(frozen=True)
class Family:
    """One family of heads.

    Attributes
    ----------
    options : type
        Its options model.
    heads : mapping
        Dotted name ``module:Class`` of the estimator for each kind of target it can learn.
    inputs : str
        What it learns from: ``rows``; ``maps``; ``tokens``, or maps whose places are tokens; or ``taps``: rows
        of several, with `widths` that tell them apart.
    holds_out : bool
        Whether a fit holds training rows out, and so depends on their groups.
    """

    options: type[HeadOptions]
    heads: Mapping[str, str]
    inputs: Inputs = "rows"
    holds_out: bool = False


FAMILIES: Mapping[str, Family] = {
    "logistic": Family(
        opt.LogisticOptions,
        {
            "classes": "embedpipe.heads.logistic:LogisticHead",
            "multilabel": "embedpipe.heads.multilabel:LogisticLabelsHead",
        },
    ),
    "ridge": Family(
        opt.RidgeOptions,
        {
            "classes": "embedpipe.heads.ridge:RidgeClassifierHead",
            "number": "embedpipe.heads.ridge:RidgeRegressorHead",
            "multilabel": "embedpipe.heads.multilabel:RidgeLabelsHead",
        },
    ),
    "svm": Family(opt.SvmOptions, {"classes": "embedpipe.heads.svm:SvmHead"}),
    "sgd": Family(
        neural.SgdOptions,
        {
            "classes": "embedpipe.heads.sgd:SgdClassifierHead",
            "number": "embedpipe.heads.sgd:SgdRegressorHead",
            "multilabel": "embedpipe.heads.sgd:SgdLabelsHead",
        },
        holds_out=True,
    ),
    "mlp": Family(
        neural.MlpOptions,
        {
            "classes": "embedpipe.heads.mlp:MlpClassifierHead",
            "number": "embedpipe.heads.mlp:MlpRegressorHead",
            "multilabel": "embedpipe.heads.mlp:MlpLabelsHead",
        },
        holds_out=True,
    ),
    "conv": Family(
        neural.ConvOptions,
        {
            "classes": "embedpipe.heads.conv:ConvClassifierHead",
            "number": "embedpipe.heads.conv:ConvRegressorHead",
            "multilabel": "embedpipe.heads.conv:ConvLabelsHead",
            "dense": "embedpipe.heads.conv_dense:DenseConvClassifierHead",
            "dense_number": "embedpipe.heads.conv_dense:DenseConvRegressorHead",
        },
        "maps",
        holds_out=True,
    ),
    "attentive": Family(
        neural.AttentiveOptions,
        {
            "classes": "embedpipe.heads.attentive:AttentiveClassifierHead",
            "number": "embedpipe.heads.attentive:AttentiveRegressorHead",
            "multilabel": "embedpipe.heads.attentive:AttentiveLabelsHead",
        },
        "tokens",
        holds_out=True,
    ),
    "layerwise": Family(
        neural.LayerwiseOptions,
        {
            "classes": "embedpipe.heads.layerwise:LayerwiseClassifierHead",
            "number": "embedpipe.heads.layerwise:LayerwiseRegressorHead",
            "multilabel": "embedpipe.heads.layerwise:LayerwiseLabelsHead",
        },
        "taps",
        holds_out=True,
    ),
    "group_lasso": Family(
        neural.GroupLassoOptions,
        {
            "classes": "embedpipe.heads.group_lasso:GroupLassoClassifierHead",
            "number": "embedpipe.heads.group_lasso:GroupLassoRegressorHead",
            "multilabel": "embedpipe.heads.group_lasso:GroupLassoLabelsHead",
        },
        "taps",
    ),
    "greedy": Family(
        neural.GreedyOptions,
        {
            "classes": "embedpipe.heads.greedy:GreedyClassifierHead",
            "number": "embedpipe.heads.greedy:GreedyRegressorHead",
        },
        "taps",
        holds_out=True,
    ),
    "lda": Family(opt.LdaOptions, {"classes": "embedpipe.heads.lda:LdaHead"}),
    "centroid": Family(opt.CentroidOptions, {"classes": "embedpipe.heads.centroid:CentroidHead"}),
    "knn": Family(
        opt.KnnOptions,
        {
            "classes": "embedpipe.heads.knn:KnnClassifierHead",
            "number": "embedpipe.heads.knn:KnnRegressorHead",
            "multilabel": "embedpipe.heads.knn:KnnLabelsHead",
        },
    ),
}
_SKLEARN_FAMILY = Family(
    opt.SklearnOptions,
    {
        "classes": "embedpipe.heads.foreign:SklearnClassifierHead",
        "number": "embedpipe.heads.foreign:SklearnRegressorHead",
    },
)


def family_of(name: str, where: str = "heads") -> Family:
    """The family called `name`.

    Raises
    ------
    ConfigError
        If there is none; names the nearest and lists all.
    """
    if name.startswith(SKLEARN):
        return _SKLEARN_FAMILY
    if name not in FAMILIES:
        known = sorted(FAMILIES)
        raise ConfigError(
            f"{where}: unknown head family {name!r}{did_you_mean(name, known)}; "
            f"known families: {', '.join(known)}, {SKLEARN}<dotted name>"
        )
    return FAMILIES[name]


def head_options(name: str, raw: Mapping[str, Any] | None, where: str | None = None) -> HeadOptions:
    """Validate one entry of `heads:`.

    Parameters
    ----------
    name
        Name of the entry; the family too unless the entry has `family:` or `preset:`.
    raw
        The entry as written; None where only the name stands.
    where
        How the user finds the entry; default ``heads.<name>``.

    Returns
    -------
    HeadOptions
        Of the family's own model.

    Raises
    ------
    ConfigError
        On an unknown family or hyperparameter, or a value out of range; with "did you mean".
    """
    where = where or f"heads.{name}"
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping of hyperparameters, found {raw!r}")
    entry = with_preset(raw or {}, where)
    chosen = entry.setdefault("family", name)
    if not isinstance(chosen, str):
        raise ConfigError(f"{where}.family: expected a name, found {chosen!r}")
    options = validate(family_of(chosen, where).options, entry, where)
    if chosen.startswith(SKLEARN):
        from embedpipe.heads.allowed import check_parameters

        check_parameters(chosen, [key for key in options.grid() if key != "standardise"], where)
    return options


def candidates(options: HeadOptions) -> list[dict[str, Any]]:
    """Every combination of hyperparameters, in a stable order: the last one declared varies fastest."""
    return product(options.grid())


def few_shot_candidates(family: str, options: HeadOptions) -> list[dict[str, Any]]:
    """The fixed choice (of the user's own values) where a few labels a class leave none to select on.

    Chosen without looking at any data, so that a k-shot arm costs no labels beyond its k a class.
    """
    if options.family != family:
        raise ValueError(f"options of {options.family!r} given for {family!r}")
    return product(options.few_shot())


def supports(family: str, kind: str) -> bool:
    """Whether `family` can learn targets of `kind` (``classes`` or ``number``)."""
    if family.startswith(SKLEARN):
        from embedpipe.heads.allowed import kind_of

        return kind_of(family) == kind
    return kind in family_of(family).heads


def takes_weights(family: str, kind: str) -> bool:
    """Whether rows may count differently where `family` learns targets of `kind`."""
    from embedpipe.heads.base import WeightedHead

    return issubclass(head_class(family, kind), WeightedHead)


def head_class(family: str, kind: str) -> type[Head]:
    """The estimator class of `family` for targets of `kind`.

    Raises
    ------
    ConfigError
        If the family is unknown or cannot learn such targets.
    """
    heads = family_of(family).heads
    if not supports(family, kind):
        able = sorted(name for name in FAMILIES if kind in FAMILIES[name].heads)
        raise ConfigError(
            f"head {family!r} cannot learn targets of kind {kind!r}; families that can: {', '.join(able)}"
        )
    module, _, attribute = heads[kind].partition(":")
    found: type[Head] = getattr(importlib.import_module(module), attribute)
    return found


def fit_grid(
    family: str,
    candidates: Sequence[Mapping[str, Any]],
    X_ND: np.ndarray | Rows,
    y: np.ndarray,
    *,
    kind: str,
    seed: int,
    X_val: np.ndarray | Rows | None = None,
    y_val: np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    memory_nbytes: int = MEMORY_NBYTES,
) -> list[Head]:
    """Fit one head per candidate, sharing the work that candidates have in common.

    Parameters
    ----------
    family
        Name of the family.
    candidates
        Hyperparameters, as `candidates` lists them.
    X_ND
        Training features, shape (N, D), float; every row has a target. `Rows` may lie on disk.
    y
        Codes (or any labels) for ``classes``, floats for ``number``; shape (N,).
    kind
        ``classes`` or ``number``.
    seed
        Decides everything random: equal seeds give equal bits.
    X_val, y_val
        Rows for early stopping, where a family stops early; such a family holds out a fifth of the
        training rows when they are None. No family learns weights from them.
    sample_weight
        Of each training row, 0 or more, as if it stood there that many times; for families that take them.
    groups
        Group of each training row: a family that holds rows out within its fit holds groups out whole.
    memory_nbytes
        `Rows` of at most so many bytes are held in memory; more are read by blocks, by families that stream.

    Returns
    -------
    list of Head
        Fitted, one per candidate, in order. Columns of `predict_proba` are `classes_`: a class without
        training rows has no column.

    Raises
    ------
    ConfigError
        If the family cannot learn such targets, or takes no sample weights.
    DataError
        If there is only one class, a value is NaN or infinite, or the rows are more than memory holds and
        the family does not stream.
    ShapeError
        If X is not 2-D.
    """
    found = head_class(family, kind)
    extra = {"estimator": family} if family.startswith(SKLEARN) else {}
    params = [{**candidate, **extra} for candidate in candidates]
    left = {
        # no classes to weigh, nor a softmax
        "number": ("class_weight", "multi_class"),
        "multilabel": ("class_weight", "multi_class"),
        "dense": ("class_weight", "pool"),
    }.get(kind, ())
    params = [{name: one[name] for name in one if name not in left} for one in params]
    return list(
        found.fit_grid(
            params,
            X_ND,
            y,
            seed=seed,
            X_val=X_val,
            y_val=y_val,
            sample_weight=sample_weight,
            groups=groups,
            memory_nbytes=memory_nbytes,
        )
    )


def save_head(head: Head, folder: Path) -> None:
    """Write a fitted head to `folder`: equal heads give equal bytes, and nothing is pickled.

    Raises
    ------
    NotFitted
        If the head has not been fitted.
    """
    from embedpipe.heads import files

    files.save_head(head, folder)


def load_head(folder: Path) -> Head:
    """Read a head that `save_head` wrote; it predicts what it predicted before, to the bit.

    Raises
    ------
    WeightsError
        If the folder holds no head, is damaged, or was written by another format version.
    """
    from embedpipe.heads import files

    return files.load_head(folder)
