"""Dask's side of a run: a client, workers that are started on this machine, and which of all workers compute.

On CUDA each worker that is started here is given one GPU and declares it as the resource ``GPU``; where workers of a
scheduler declare that resource, those alone are sent blocks, and each computes as many as it has GPUs, which is one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from embedpipe.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

GPU = "GPU"
CPU_WORKERS = 2
# large maps come from the one heap that `allocator.keep_memory` keeps, whichever thread of the worker asks for them
MALLOC = {"MALLOC_ARENA_MAX": 1}
# dask's profiler wakes a hundred times a second, its tick fifty times, on the cores that the forward pass waits for:
# 2 to 3 % of it
CALM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "10s",
}


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    return [str(i) for i in range(torch.cuda.device_count())]


def worker_options(wanted: int | str, device_kind: str, gpus: Sequence[str]) -> list[dict[str, Any]]:
    """What each worker that is started here is started with.

    Parameters
    ----------
    wanted
        Number of workers; auto: one a GPU, or two.

    Raises
    ------
    ConfigError
        If there are more workers than GPUs: two models on one GPU are slower than one.
    """
    # memory is bounded by the batches; a guard would kill workers that share a machine
    common: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "silence_logs": 40}
    if device_kind != "cuda":
        return [common] * (CPU_WORKERS if wanted == "auto" else int(wanted))
    num = len(gpus) if wanted == "auto" else int(wanted)
    if num > len(gpus):
        raise ConfigError(
            f"params.yaml: extract.workers: expected at most one worker a GPU, found {num} for {len(gpus)} "
            f"({', '.join(gpus) or 'none'}); lower it, or leave it out for one each"
        )
    return [{**common, "env": {"CUDA_VISIBLE_DEVICES": gpu}, "resources": {GPU: 1}} for gpu in gpus[:num]]


def wanted_resources(device_kind: str, workers: Mapping[str, Mapping[str, Any]]) -> dict[str, int] | None:
    """What a block asks of a worker: a GPU, where the backbone runs on one and workers say that they have it.

    Parameters
    ----------
    workers
        As `Client.scheduler_info` gives them.
    """
    declared = any((worker.get("resources") or {}).get(GPU) for worker in workers.values())
    return {GPU: 1} if device_kind == "cuda" and declared else None


def num_computing(resources: Mapping[str, int] | None, workers: Mapping[str, Mapping[str, Any]]) -> int:
    """How many workers can be sent a block."""
    if resources is None:
        return len(workers)
    return sum(bool((worker.get("resources") or {}).get(GPU)) for worker in workers.values())


@contextlib.contextmanager
def open_client(scheduler: str | None, num_workers: int | str, device_kind: str) -> Iterator[Client]:
    """A client of the scheduler named, or of workers that are started here and end with it.

    Raises
    ------
    ConfigError
        If no scheduler answers there, or there are fewer GPUs than workers.
    """
    from distributed import Client

    with contextlib.ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            address = stack.enter_context(_local(num_workers, device_kind))
        try:
            client = Client(address, set_as_default=False, timeout="30s")
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"params.yaml: extract.scheduler: expected a dask scheduler at {scheduler}, found none that answers "
                f"({error}); start one with `dask scheduler`, or remove the key to start workers on this machine"
            ) from error
        stack.enter_context(client)
        if scheduler is None:
            from distributed import WorkerPlugin

            class IgnoreCtrlC(WorkerPlugin):
                """Ctrl-C is sent to every process of a terminal; the coordinator alone acts on it."""

                def setup(self, worker: Any) -> None:
                    ignore_interrupts()

            client.register_plugin(IgnoreCtrlC())
        yield client


@contextlib.contextmanager
def _local(num_workers: int | str, device_kind: str) -> Iterator[Any]:
    """A scheduler in this process and workers in processes of their own, reachable from this machine alone."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    here = {"host": "127.0.0.1", "protocol": "tcp://"}
    # its HTTP server is started all the same: not on every interface, nor on the one port that others may have
    quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    options = worker_options(num_workers, device_kind, visible_gpus() if device_kind == "cuda" else ())
    workers = {i: {"cls": Nanny, "options": {**here, **one}} for i, one in enumerate(options)}
    started = dask.config.get("distributed.nanny.pre-spawn-environ", {}) | MALLOC
    with dask.config.set({"distributed.nanny.pre-spawn-environ": started, **CALM}):
        cluster = SpecCluster(
            workers=workers,
            scheduler={"cls": Scheduler, "options": {**here, "port": 0, **quiet}},
            silence_logs=40,
        )
        with cluster:
            yield cluster


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the coordinator."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
