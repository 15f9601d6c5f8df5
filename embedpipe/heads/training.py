"""What a head is fitted on: checked rows, targets and weights, shared by all heads of a grid.

Knows nothing of families.
"""

# N rows, D features, K classes

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embedpipe.errors import ConfigError
from embedpipe.heads.rows import MEMORY_NBYTES, Rows, array_of


@dataclass(frozen=True)
class OneHot:
    """One-hot targets of rows, made where they are asked for: all of many classes would be larger than the rows."""

    codes: np.ndarray
    num_classes: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return (len(self.codes), self.num_classes)

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        codes_n = self.codes[part]
        onehot_nK = np.zeros((len(codes_n), self.num_classes))
        onehot_nK[np.arange(len(codes_n)), codes_n] = 1.0
        return onehot_nK


@dataclass(frozen=True)
class Training:
    """Checked training rows, shared by all heads of a grid.

    Attributes
    ----------
    rows : Rows, shape (N, D)
        In memory, or read by blocks where they do not fit there.
    y : array, shape (N,)
        int64 codes into `classes`, or float64 values; (N, M) of several numbers, (N, K) of labels.
    classes : array or None
        Sorted labels present in training; None for numbers.
    rows_val, y_val : Rows and array, or None
        Rows for early stopping, in the same terms; rows of classes unseen in training are dropped.
    weight : float64 array or None, shape (N,)
        Of each row, above 0: as if it stood there that many times.
    groups : int64 array or None, shape (N,)
        Rows that belong together are held out together, by a family that holds rows out within its fit.
    memory_nbytes : int
        What a fit may hold of rows that do not lie in memory, copies of them included.
    """

    rows: Rows
    y: np.ndarray
    classes: np.ndarray | None = None
    rows_val: Rows | None = None
    y_val: np.ndarray | None = None
    weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    memory_nbytes: int = MEMORY_NBYTES

    @property
    def X_ND(self) -> np.ndarray:
        """All training rows in one array: for families that do not stream."""
        return array_of(self.rows)

    @property
    def X_val(self) -> np.ndarray | None:
        """All rows for early stopping in one array."""
        return None if self.rows_val is None else array_of(self.rows_val)

    @property
    def counts_K(self) -> np.ndarray:
        """Weight of each class, float64."""
        assert self.classes is not None
        counts_K: np.ndarray = np.bincount(self.y, self.weight, len(self.classes)).astype(np.float64)
        return counts_K

    def mass_of(self, class_weight: Any) -> np.ndarray | None:
        """What one copy of each row counts, by its class; None where all count the same.

        Parameters
        ----------
        class_weight
            None, ``balanced`` (inversely to the weight of the class) or weights by label.
        """
        if class_weight is None:
            return None
        assert self.classes is not None
        if isinstance(class_weight, str):
            if class_weight != "balanced":
                raise ConfigError(f"class_weight: expected balanced or none, found {class_weight!r}")
            counts_K = self.counts_K
            of_class_K = counts_K.sum() / (len(counts_K) * counts_K)
        else:
            of_class_K = np.array([float(class_weight.get(label, 1.0)) for label in self.classes.tolist()])
        mass_N: np.ndarray = of_class_K[self.y]
        return mass_N

    def weight_of(self, class_weight: Any) -> np.ndarray | None:
        """Weight of each row, class weights included."""
        mass_N = self.mass_of(class_weight)
        if mass_N is None:
            return self.weight
        return mass_N if self.weight is None else self.weight * mass_N

    @property
    def columns(self) -> np.ndarray:
        """Numbers as columns, (N, M)."""
        return self.y.reshape(len(self.y), -1)

    @property
    def onehot_NK(self) -> np.ndarray:
        """Float64 one-hot targets of all rows."""
        return self.onehot[:]

    @property
    def onehot(self) -> OneHot:
        """One-hot targets, (N, K), made where they are asked for."""
        assert self.classes is not None
        return OneHot(self.y, len(self.classes))
