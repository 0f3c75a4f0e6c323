"""Signs of life go to the worker's board, and nowhere outside of a worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from worker import guard
from worker.board import Board, create


@pytest.fixture
def board() -> Iterator[Board]:
    fd = create()
    board = Board(fd)
    os.close(fd)
    guard.attach(board)
    yield board
    guard.attach(None)
    board.close()


def test_outside_of_a_worker_nothing_happens() -> None:
    guard.heartbeat()
    guard.progress(1, 2)


def test_a_heartbeat_changes_the_number(board: Board) -> None:
    before = board.read_beats()
    guard.heartbeat()
    assert board.read_beats() != before
    assert board.read_progress() is None


def test_progress_is_told_and_is_a_sign_of_life(board: Board) -> None:
    before = board.read_beats()
    guard.progress(3, 12)
    assert board.read_progress() == (3.0, 12.0)
    assert board.read_beats() != before


@pytest.mark.parametrize(
    ("done", "total"),
    [
        (1, 0),
        (1, -1),
        (-1, 2),
        (float("nan"), 1),
        (1, float("nan")),
        (1, float("inf")),
        (float("inf"), 1),
        (10**400, 1),
        (1, 10**400),
    ],
)
def test_progress_is_a_number_of_a_total(board: Board, done: float, total: float) -> None:
    with pytest.raises(ValueError, match="progress is a number from 0 on"):
        guard.progress(done, total)
    assert board.read_progress() is None


def test_they_come_from_threads_and_from_forked_children(board: Board) -> None:
    before = board.read_beats()
    thread = threading.Thread(target=guard.heartbeat)
    thread.start()
    thread.join()
    from_thread = board.read_beats()
    assert from_thread != before
    pid = os.fork()
    if not pid:
        guard.progress(1, 4)
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.read_beats() != from_thread
    assert board.read_progress() == (1.0, 4.0)
