"""Several processes that train one model: those that torchrun starts, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """Which process this is, of how many.

    Attributes
    ----------
    rank : int
        From 0; that one scores, saves and speaks.
    size : int
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0


def world() -> World:
    """The processes of the group that this one is in."""
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    return World()


@contextmanager
def torchrun(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started; where it did not, this one stays alone.

    Parameters
    ----------
    device : torch.device
        ``cuda`` becomes the device of this process's local rank, and nccl connects them; gloo on the CPU.

    Yields
    ------
    world, and the device of this process
    """
    joined = world()
    if joined.size > 1 or int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield joined, device
        return
    on_cuda = device.type == "cuda"
    if on_cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield world(), device
    finally:
        distributed.destroy_process_group()


def spread(module: nn.Module, device: torch.device) -> nn.Module:
    """The module as its forward pass runs: its gradients are averaged over all processes, if there are several."""
    if world().size == 1:
        return module
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids)


def agreed(value: float, device: torch.device) -> float:
    """What the first process found, in all of them."""
    if world().size == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.broadcast(shared, 0)
    return float(shared)


def summed(value: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, in place."""
    if world().size > 1:
        distributed.all_reduce(value)
    return value


def same_state(module: nn.Module) -> None:
    """Give every process the tensors that the first one holds; statistics of batch norms may have parted."""
    if world().size > 1:
        for value in module.state_dict().values():
            shared = value.contiguous()
            distributed.broadcast(shared, 0)
            value.copy_(shared)


def gathered(value: torch.Tensor) -> list[torch.Tensor]:
    """A tensor of the same shape from every process, on the CPU, in order of rank."""
    if world().size == 1:
        return [value]
    on_cuda = distributed.get_backend() == "nccl"
    mine = value.cuda() if on_cuda else value
    found = [torch.empty_like(mine) for _ in range(world().size)]
    distributed.all_gather(found, mine)
    return [one.cpu() for one in found]


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world().size > 1:
        distributed.barrier()
