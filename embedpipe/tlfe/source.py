"""Layers of the frozen source, extracted once: inputs by content into a feature store, and read back from it.

An input that a loader gives again, in any order and for any target, is found by its bytes and not computed again. One
that is augmented anew each time is another input each time.
"""

# N inputs, B of a batch

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from embedpipe.backbones.weights import weights_digest
from embedpipe.errors import ConfigError, DataError, ShapeError
from embedpipe.manifest.keys import array_key
from embedpipe.spec import BackboneSpec, TapSpec, digest
from embedpipe.store import FeatureStore, open_group
from embedpipe.training.policies import check_names

Shape = tuple[int, ...]
CHUNK_NBYTES = 128 << 20
"""Inputs held until their features are committed together."""


class _Reached(Exception):
    """Every layer has been heard: what lies behind them is not computed."""


class FrozenSource:
    """A network that is never trained, heard at some of its layers.

    Parameters
    ----------
    module : nn.Module
        Is put in eval mode, without gradients, on the device.
    layers : sequence of str
        Names of modules.

    Raises
    ------
    ConfigError
        If there is no such layer; lists near names.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str], device: torch.device) -> None:
        if not layers:
            raise ConfigError("transfer_layers: expected one layer of the source or more, found none")
        check_names(module, layers, "transfer_layers")
        self.module = module.to(device).eval().requires_grad_(False)
        self.layers = tuple(dict.fromkeys(layers))
        self.device = device
        self.num_computed = 0
        self._digest: str | None = None

    def look_again(self) -> None:
        """Have the next `spec` read the weights: they may have been replaced since."""
        self._digest = None

    def spec(self) -> BackboneSpec:
        """What names the features of this very network."""
        kind = type(self.module)
        if self._digest is None:
            self._digest = weights_digest(self.module)
        return BackboneSpec(
            # layers without weights (an activation, a stride) stand in its text alone
            architecture=f"python:{kind.__module__}.{kind.__qualname__}:{digest(repr(self.module))[:12]}",
            weights_digest=self._digest,
            decoder="tensors",
            preprocessing="{}",
            precision="float32",
            device_kind=self.device.type,
        )

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of the layers for a batch, float32, on the device."""
        heard: dict[str, torch.Tensor] = {}

        def hear(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if not isinstance(output, torch.Tensor):
                    raise ShapeError(
                        f"transfer_layers: expected one tensor from {name!r}, found {type(output).__name__}; name a "
                        "layer inside it"
                    )
                # a later layer may work in place
                heard[name] = output.detach().float().clone()
                if len(heard) == len(self.layers):
                    raise _Reached

            return hook

        handles = [self.module.get_submodule(name).register_forward_hook(hear(name)) for name in self.layers]
        self.module.eval()
        try:
            with torch.inference_mode():
                self.module(x.to(self.device))
        except _Reached:
            pass
        except (RuntimeError, ValueError) as error:
            raise ShapeError(
                f"source_model: cannot take inputs of shape {tuple(x.shape)} ({str(error).splitlines()[0][:160]})"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        lacking = [name for name in self.layers if name not in heard]
        if lacking:
            raise ConfigError(
                f"transfer_layers: {', '.join(lacking)}: exists, but is not run for these inputs; name another layer"
            )
        self.num_computed += len(x)
        return heard


class SourceFeatures:
    """The store of a source's layers.

    Parameters
    ----------
    root : Path or None
        Folder of the store; None: a temporary one, which goes with this object.
    dtype : str
        ``float16`` or ``float32``.
    """

    def __init__(self, source: FrozenSource, root: Path | None, dtype: str) -> None:
        if dtype not in ("float16", "float32"):
            raise ConfigError(f"dtype: expected float16 or float32, found {dtype!r}")
        self.source, self.dtype = source, dtype
        if root is None:
            root = Path(tempfile.mkdtemp(prefix="embedpipe-tlfe-"))
            weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        self.root = root
        self.taps = {layer: TapSpec(layer, "none", dtype) for layer in source.layers}

    def add(
        self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], batch: int
    ) -> tuple[npt.NDArray[np.uint8], torch.Tensor]:
        """Bring every input into the store.

        Returns
        -------
        keys uint8 (N, 16) and targets (N, ...), in the order of the batches
        """
        keys, targets = [], []
        for x, y in _chunks(batches):
            found = keys_of(x)
            self._extract(found, x, batch)
            keys.append(found)
            targets.append(y)
        return np.concatenate(keys), torch.cat(targets)

    def shapes(self) -> dict[str, Shape]:
        """Shape of one input's features by layer."""
        store = self._open()
        return {layer: tuple(store.tap(tap.name).row_shape) for layer, tap in self.taps.items()}

    def samples(self, keys: npt.NDArray[np.uint8], targets: torch.Tensor) -> StoredSamples:
        """The inputs of these keys with their targets, for the trainer."""
        store = self._open()
        return StoredSamples(store, [tap.name for tap in self.taps.values()], store.rows_of(keys), targets)

    def rounded(self, features: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Features that were just computed, as the store would give them back."""
        dtype = torch.float16 if self.dtype == "float16" else torch.float32
        return [features[layer].to(dtype).float() for layer in self.taps]

    def _open(self) -> FeatureStore:
        return FeatureStore.open(open_group(self.root, self.source.spec()).path)

    def _extract(self, keys: npt.NDArray[np.uint8], x: torch.Tensor, batch: int) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        group = open_group(self.root, self.source.spec())
        with group.lock():
            group.recover()
            names = [tap.name for tap in self.taps.values()]
            if any(name not in group.taps for name in names):
                shapes = {layer: tuple(one.shape[1:]) for layer, one in self.source(x[:1]).items()}
                group.ensure_taps({tap: shapes[layer] for layer, tap in self.taps.items()})
            plan = group.plan(keys, taps=names)
            for block in plan.blocks:
                with group.writer(plan, block, batch=batch) as writer:
                    for index, segment in enumerate(block.segments):
                        rows = writer.missing(index)
                        for start in range(0, len(rows), batch):
                            here = rows[start : start + batch]
                            found = self.source(
                                x[torch.from_numpy(plan.wanted_of_row[here].astype(np.int64))]
                            )
                            by_tap = {
                                tap.name: found[layer].cpu().numpy() for layer, tap in self.taps.items()
                            }
                            writer.append(here, {name: by_tap[name] for name in segment.taps})
                    writer.commit()


@dataclass(frozen=True)
class StoredSamples:
    """Features in a store with targets: `Samples` of the trainer."""

    store: FeatureStore
    taps: Sequence[str]
    rows: npt.NDArray[np.int64]
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `Samples`."""
        rows = self.rows[index.numpy()]
        values = [self.store.read(tap, rows) for tap in self.taps]
        return [torch.from_numpy(one.astype(np.float32)) for one in values], self.targets[index]


def batches_of(loader: Any, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets of a loader, on the CPU.

    Raises
    ------
    DataError
        If it gives no batch, or something else than pairs of tensors with as many rows.
    """
    num = 0
    for one in loader:
        if not isinstance(one, (list, tuple)) or len(one) != 2:
            raise DataError(f"loader {name!r}: expected pairs (inputs, targets), found {type(one).__name__}")
        x, y = torch.as_tensor(one[0]), torch.as_tensor(one[1])
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise DataError(
                f"loader {name!r}: expected as many targets as inputs, found {tuple(x.shape)} and {tuple(y.shape)}"
            )
        num += len(x)
        yield x.cpu(), y.cpu()
    if not num:
        raise DataError(
            f"loader {name!r}: expected at least one batch, found none; check its data set and drop_last"
        )


def keys_of(x: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Key of each input by its content, uint8 (N, 16)."""
    keys = [np.frombuffer(array_key(one), np.uint8) for one in x.numpy()]
    return np.stack(keys)


def _chunks(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    nbytes = 0
    for x, y in batches:
        held.append((x, y))
        nbytes += x.nbytes
        if nbytes >= CHUNK_NBYTES:
            yield torch.cat([one for one, _ in held]), torch.cat([one for _, one in held])
            held, nbytes = [], 0
    if held:
        yield torch.cat([one for one, _ in held]), torch.cat([one for _, one in held])
