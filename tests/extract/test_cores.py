"""Reader threads keep to a core each and compute alone; the forward pass gets its helpers back."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from embedpipe.extract.cores import open_readers, release_cores

on_linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux alone")


def in_every_thread(num: int, **options: bool) -> list[tuple[int, set[int], int]]:
    """Threads of torch, cores and niceness of each reader."""
    together = threading.Barrier(num)

    def look(_: int) -> tuple[int, set[int], int]:
        together.wait(30)
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return torch.get_num_threads(), allowed, nice

    with open_readers(num, **options) as readers:
        return list(readers.map(look, range(num)))


def test_readers_compute_alone_and_nobody_else_is_told_to() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert {found[0] for found in in_every_thread(3)} == {1}
        assert torch.get_num_threads() == 2
        elsewhere: list[int] = []
        thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert elsewhere == [2]
    finally:
        torch.set_num_threads(before)


@on_linux
def test_readers_that_are_spread_keep_to_a_core_each_in_turn_and_the_process_to_all() -> None:
    cores = sorted(os.sched_getaffinity(0))
    found = [cores_of for _, cores_of, _ in in_every_thread(len(cores) + 1, spread=True)]
    assert sorted(min(one) for one in found) == sorted([*cores, cores[0]])
    assert all(len(one) == 1 for one in found)
    assert sorted(os.sched_getaffinity(0)) == cores
    assert all(sorted(one) == cores for _, one, _ in in_every_thread(2))


@on_linux
def test_readers_that_yield_are_nice_and_the_process_is_not() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert {nice for _, _, nice in in_every_thread(2, yields=True)} == {min(19, max(10, before))}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_where_cores_cannot_be_chosen_readers_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert [threads for threads, _, _ in in_every_thread(2, spread=True)] == [1, 1]


@on_linux
def test_fewer_readers_than_cores_are_not_kept_to_the_first_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*cores, 1000})
    chosen: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, some: chosen.append(some))
    in_every_thread(len(cores), spread=True)
    assert chosen == []


def test_a_pass_computes_the_same_after_its_helpers_were_sent_away() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0))
        expected = torch.relu(x @ x.T).softmax(1)
        for _ in range(3):
            release_cores()
            assert torch.equal(torch.relu(x @ x.T).softmax(1), expected)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
