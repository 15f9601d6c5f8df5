"""Decoding and forward passes that want the same cores take turns."""

from __future__ import annotations

import threading

import pytest

from embedpipe.extract.turns import Turns


class Clock:
    """Seconds that only tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def read_in_a_thread(turns: Turns) -> tuple[threading.Thread, threading.Event]:
    begun = threading.Event()

    def one() -> None:
        with turns.reading():
            begun.set()

    thread = threading.Thread(target=one, daemon=True)
    thread.start()
    return thread, begun


def test_a_sample_is_read_only_once_the_pass_has_ended() -> None:
    turns = Turns(True)
    with turns.computing():
        thread, begun = read_in_a_thread(turns)
        assert not begun.wait(0.05)
    assert begun.wait(10)
    thread.join()


def test_readers_go_on_after_a_pass_that_failed() -> None:
    turns = Turns(True)
    with pytest.raises(MemoryError), turns.computing():
        raise MemoryError
    _, begun = read_in_a_thread(turns)
    assert begun.wait(10)


def test_with_cores_of_its_own_nothing_waits() -> None:
    turns = Turns(False)
    with turns.computing():
        _, begun = read_in_a_thread(turns)
        assert begun.wait(10)


@pytest.mark.parametrize(("worked_s", "taken"), [(0.04, False), (0.16, True)])
def test_reading_that_mostly_waits_goes_on_beside_the_pass(worked_s: float, taken: bool) -> None:
    clock, worked = Clock(), Clock()
    turns = Turns(True, clock=clock, worked=worked)
    with turns.reading():
        clock.now += 0.2
        worked.now += worked_s
    assert turns.taken is taken
    with turns.computing():
        _, begun = read_in_a_thread(turns)
        assert begun.wait(0.05 if taken else 10) is not taken


def test_the_cores_are_released_before_readers_begin_also_after_a_pass_that_failed() -> None:
    seen: list[bool] = []
    turns = Turns(True, lambda: seen.append(begun.is_set()))
    with pytest.raises(MemoryError), turns.computing():
        thread, begun = read_in_a_thread(turns)
        raise MemoryError
    thread.join()
    assert seen == [False] and begun.is_set()
