"""One run of a model on two samples: which modules run, what they take and give, and which weights are read.

Knows nothing of taps.
"""

# N samples, C channels, H W height and width

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from embedpipe.backbones.layouts import on_meta
from embedpipe.errors import ConfigError

Call = Callable[[nn.Module, torch.Tensor], Any]
"""Runs a module on what `Inputs.prepare` gives."""


@dataclass(frozen=True)
class Seen:
    """What one module gave when the model was run on two samples.

    Attributes
    ----------
    shape : tuple of int
        With N.
    order : int
        When: modules' beginnings and ends, counted.
    """

    shape: tuple[int, ...]
    order: int


@dataclass(frozen=True)
class Observed:
    """One run of a model.

    Attributes
    ----------
    outputs, inputs : dict of str -> Seen
        By path of module; those that ran more than once are left out.
    began : dict of str -> int
        When each module began.
    feeds : dict of str -> set of str
        By path of a module, those whose very output it took.
    norms : frozenset of str
        Paths of norms.
    result_path : str or None
        Innermost module whose very output is the first tensor that the model returned.
    reads : dict of str -> int
        By name of a parameter or buffer, the last beginning or end of a module before an operation first took it.
        Modules are not enough: attention hands the weights of a layer to a function that never calls the layer.
    """

    outputs: dict[str, Seen]
    inputs: dict[str, Seen]
    began: dict[str, int]
    feeds: dict[str, set[str]]
    norms: frozenset[str]
    result_path: str | None
    reads: dict[str, int]

    def norm_behind(self, path: str) -> str | None:
        """Path of the norm that takes the output of a module as it is, if there is one."""
        found = [one for one, sources in self.feeds.items() if path in sources and one in self.norms]
        return min(found, key=lambda one: self.began[one], default=None)


def observe(module: nn.Module, call: Call, x: torch.Tensor) -> Observed:
    """Run a model and note what each module takes and gives."""
    outputs: dict[str, Seen] = {}
    inputs: dict[str, Seen] = {}
    began: dict[str, int] = {}
    runs: dict[str, int] = {}
    feeds: dict[str, set[str]] = {}
    given: dict[str, weakref.ReferenceType[torch.Tensor]] = {}
    clock = _Clock()
    reads = _Reads(module, clock)

    def givers(value: torch.Tensor) -> list[str]:
        return [path for path, reference in given.items() if reference() is value]

    def watch(path: str, part: nn.Module) -> list[Any]:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = first_tensor([*args, *kwargs.values()])
            began[path] = clock.tick()
            if value is not None:
                inputs[path] = Seen(tuple(value.shape), began[path])
                feeds[path] = set(givers(value))

        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = first_tensor(output)
            runs[path] = runs.get(path, 0) + 1
            order = clock.tick()
            if value is not None:
                outputs[path] = Seen(tuple(value.shape), order)
                given[path] = weakref.ref(value)

        return [
            part.register_forward_pre_hook(before, with_kwargs=True),
            part.register_forward_hook(after, with_kwargs=True),
        ]

    handles = [handle for path, part in module.named_modules() if path for handle in watch(path, part)]
    try:
        with torch.no_grad():
            with reads:
                output = call(module, x)
            result = first_tensor(output)
            returned = [] if result is None else givers(result)
    finally:
        for handle in handles:
            handle.remove()
    once = {path for path, count in runs.items() if count == 1}
    returned = [path for path in returned if path in once]
    return Observed(
        {path: seen for path, seen in outputs.items() if path in once},
        {path: seen for path, seen in inputs.items() if path in once},
        began,
        feeds,
        frozenset(path for path, part in module.named_modules() if type(part).__name__.endswith("Norm")),
        min(returned, key=lambda path: outputs[path].order, default=None),
        reads.first,
    )


class _Clock:
    """Counts the beginnings and ends of modules."""

    def __init__(self) -> None:
        self.now = 0

    def tick(self) -> int:
        self.now += 1
        return self.now


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes when operations first take each parameter and buffer of a module."""

    def __init__(self, module: nn.Module, clock: _Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first: dict[str, int] = {}
        self._clock = clock
        self._names: dict[int, list[str]] = {}  # some tensors have several
        self._held = module.state_dict(keep_vars=True)  # alive, so that no other tensor has an id of theirs
        for name, value in self._held.items():
            self._names.setdefault(id(value), []).append(name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in tree_leaves((args, kwargs)):
            for name in self._names.get(id(value), ()):
                self.first.setdefault(name, self._clock.now)
        return func(*args, **(kwargs or {}))


def observe_images(module: nn.Module, call: Call, shape: tuple[int, ...], where: str) -> Observed:
    """Run a model on two images: without computing anything where it allows that.

    Raises
    ------
    ConfigError
        If it takes no images of this size.
    """
    try:
        return observe(on_meta(module), call, torch.empty((2, *shape), device="meta"))
    except Exception:  # some models look at values
        pass
    try:
        return observe(module, call, torch.zeros((2, *shape)))
    except Exception as error:
        size = "×".join(map(str, shape))
        raise ConfigError(
            f"{where}: the model takes no input of {size} ({_first_line(error)}); set preprocess.crop_px to a size it "
            "takes"
        ) from error


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first floating tensor in an output: of a tuple, a list, a dict or an output object of transformers."""
    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((one for item in value if (one := first_tensor(item)) is not None), None)
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
