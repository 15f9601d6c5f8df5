"""Networks as stacks: members of one shape, their parameters along a leading axis, their outputs at once.

A batch is shared by all members, so a first layer is one matrix product whatever the number of members. Two
layouts decide the speed: parameters (G, K, D), so that the members' first layers are rows of one matrix, and
outputs (G, K, B), so that a softmax runs along contiguous rows. (52 members of 256 columns, 10 classes and 256
rows, one core: one product 0.66 ms against 4.7 ms for a product a member; softmax 0.11 against 2.3 ms.)
Knows nothing of optimisers or heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Params = dict[str, torch.Tensor]
    ErrorsOf = Callable[[torch.Tensor], torch.Tensor]

# G members, B rows of a batch, D features, H hidden units, K outputs


@dataclass
class Dropout:
    """Share of hidden units dropped by each member, and where the masks come from.

    Attributes
    ----------
    rates : float tensor, shape (G, 1, 1)
    generator : torch.Generator
        All members compare the same uniform numbers with their own rate, so that a member's masks do not
        depend on which others are trained beside it.
    """

    rates: torch.Tensor
    generator: torch.Generator

    def mask(self, units: int, rows: int) -> torch.Tensor:
        """Factors of hidden units, shape (G, H, B): 0, or what makes up for the others."""
        import torch

        drawn = torch.rand((units, rows), generator=self.generator).to(self.rates.device)
        kept = drawn >= self.rates
        return kept / (1.0 - self.rates)


class Net:
    """A stack of networks of one shape. Subclasses give `initial` and `outputs`, and may write out `gradients`."""

    def initial(self, generator: torch.Generator) -> Params:
        """Parameters of one member."""
        raise NotImplementedError

    def outputs(self, params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Outputs, shape (G, K, M), of rows x (B, ...); M is B, or B times places."""
        raise NotImplementedError

    def gradients(
        self, params: Params, x: torch.Tensor, errors_of: ErrorsOf, dropout: Dropout | None
    ) -> Params:
        """Gradient of each member's loss in its own parameters; `errors_of` gives that in the outputs.

        By torch's own differentiation; a sum over members, so that each member's gradient is its own.
        """
        import torch

        assert dropout is None, "dropout is for networks that write out their gradients"
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        out_GKM = self.outputs(leaves, x)
        with torch.no_grad():
            error_GKM = errors_of(out_GKM.detach())
        found = torch.autograd.grad(out_GKM, list(leaves.values()), error_GKM)
        return dict(zip(leaves, found, strict=True))

    @staticmethod
    def decays(name: str) -> bool:
        """Whether weight decay touches a parameter: weights, and neither biases nor scales."""
        return name.endswith("weights")


@dataclass(frozen=True)
class LinearNet(Net):
    """Linear models, from zero: convex losses have one optimum."""

    num_features: int
    num_outputs: int

    def initial(self, generator: torch.Generator) -> Params:
        import torch

        return {
            "weights": torch.zeros((self.num_outputs, self.num_features)),
            "bias": torch.zeros((self.num_outputs, 1)),
        }

    def outputs(self, params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return shared_outputs(params["weights"], x, params["bias"])

    def gradients(
        self, params: Params, x: torch.Tensor, errors_of: ErrorsOf, dropout: Dropout | None
    ) -> Params:
        error_GKB = errors_of(self.outputs(params, x))
        return {
            "weights": shared_gradient(error_GKB, x),
            "bias": error_GKB.sum(dim=2, keepdim=True),
        }


@dataclass(frozen=True)
class PerceptronNet(Net):
    """One or two hidden layers of rectified units of one width."""

    num_features: int
    num_outputs: int
    hidden: int
    num_layers: int = 1

    def initial(self, generator: torch.Generator) -> Params:
        widths = [self.num_features, *[self.hidden] * self.num_layers, self.num_outputs]
        params: Params = {}
        for layer, (fan_in, units) in enumerate(pairwise(widths)):
            params[f"{layer}.weights"] = uniform((units, fan_in), fan_in, generator)
            params[f"{layer}.bias"] = uniform((units, 1), fan_in, generator)
        return params

    def outputs(self, params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        active_GHB = shared_outputs(params["0.weights"], x, params["0.bias"])
        for layer in range(1, self.num_layers + 1):
            active_GHB.relu_()
            active_GHB = (params[f"{layer}.weights"] @ active_GHB).add_(params[f"{layer}.bias"])
        return active_GHB

    def gradients(
        self, params: Params, x: torch.Tensor, errors_of: ErrorsOf, dropout: Dropout | None
    ) -> Params:
        import torch

        inputs, actives, masks = [], [], []
        here_GHB = shared_outputs(params["0.weights"], x, params["0.bias"])
        for layer in range(1, self.num_layers + 1):
            active_GHB = here_GHB.relu_()
            mask = None if dropout is None else dropout.mask(self.hidden, len(x))
            masks.append(mask)
            actives.append(active_GHB)
            inputs.append(active_GHB if mask is None else active_GHB * mask)
            here_GHB = (params[f"{layer}.weights"] @ inputs[-1]).add_(params[f"{layer}.bias"])
        back_GHB = errors_of(here_GHB)
        found: Params = {}
        for layer in range(self.num_layers, 0, -1):
            found[f"{layer}.weights"] = back_GHB @ inputs[layer - 1].transpose(1, 2)
            found[f"{layer}.bias"] = back_GHB.sum(dim=2, keepdim=True)
            back_GHB = params[f"{layer}.weights"].transpose(1, 2) @ back_GHB
            mask = masks[layer - 1]
            if mask is not None:
                back_GHB *= mask
            # a product with (active > 0) takes fifty times as long
            torch.ops.aten.threshold_backward.grad_input(back_GHB, actives[layer - 1], 0, grad_input=back_GHB)
        found["0.weights"] = shared_gradient(back_GHB, x)
        found["0.bias"] = back_GHB.sum(dim=2, keepdim=True)
        return found


def shared_outputs(weights_GKD: torch.Tensor, x_BD: torch.Tensor, bias_GK1: torch.Tensor) -> torch.Tensor:
    """Every member's outputs of the same rows as one product, shape (G, K, B)."""
    num_members, num_outputs, _ = weights_GKD.shape
    out_MB = product(weights_GKD.flatten(0, 1), x_BD).add_(bias_GK1.flatten(0, 1))
    return out_MB.view(num_members, num_outputs, x_BD.shape[0])


def shared_gradient(error_GKB: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
    """Gradient in every member's weights of the same rows as one product, shape (G, K, D)."""
    return product(error_GKB.flatten(0, 1), x_BD.T).view(*error_GKB.shape[:2], x_BD.shape[1])


def product(a_MK: torch.Tensor, b_NK: torch.Tensor) -> torch.Tensor:
    """``a @ b.T``; float32 on the processor by oneDNN where torch has it, in the same precision.

    torch's own products come from MKL, which on processors that are not Intel's leaves half of their vector units
    unused (Zen 5, two cores: 2,048 x 256 x 256 in 1.22 ms, by oneDNN in 0.54) and whose last bits depend on the number
    of threads.
    """
    import torch

    multiply = _onednn() if a_MK.is_cpu and a_MK.dtype == torch.float32 else None
    return a_MK @ b_NK.T if multiply is None else multiply(a_MK, b_NK)


@cache
def _onednn() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """oneDNN's ``a @ b.T``: the operator that torch.compile uses; None where this torch has none that works."""
    import torch

    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None

    def multiply(a_MK: torch.Tensor, b_NK: torch.Tensor) -> torch.Tensor:
        out_MN: torch.Tensor = linear(a_MK, b_NK, None, "none", [], "")
        return out_MN

    probe = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    try:
        return multiply if torch.equal(multiply(probe, probe), probe @ probe.T) else None
    except RuntimeError:
        return None


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform in ±1/sqrt(fan_in), as torch's own linear layers begin."""
    import torch

    drawn: torch.Tensor = (torch.rand(shape, generator=generator) * 2.0 - 1.0) / float(fan_in) ** 0.5
    return drawn
