"""The page that a worker and its supervisor share."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import worker.board as boards
from worker.board import Board
from worker.report import FRAME_MAX


def test_a_call_is_read_as_it_was_written() -> None:
    fd = boards.create()
    one, two = Board(fd), Board(fd)
    os.close(fd)
    assert two.read_call(7) is None
    before = time.monotonic()
    one.write_call(7, 1.25)
    call = two.read_call(7)
    assert call is not None
    assert before <= call[0] <= time.monotonic()
    assert call[1] == 1.25
    one.close()
    two.close()


def test_a_call_of_another_attempt_is_not_this_ones() -> None:
    fd = boards.create()
    board = Board(fd)
    os.close(fd)
    board.write_call(7, 0.0)
    assert board.read_call(6) is None
    assert board.read_call(8) is None
    board.write_call(2**63, 0.0)
    assert board.read_call(7) is None
    assert board.read_call(2**63) is not None
    board.close()


def test_a_return_is_read_as_it_was_written_and_is_no_other_attempts() -> None:
    fd = boards.create()
    one, two = Board(fd), Board(fd)
    os.close(fd)
    assert two.read_return(7) is None
    before = time.monotonic()
    one.write_return(7)
    returned_s = two.read_return(7)
    assert returned_s is not None
    assert before <= returned_s <= time.monotonic()
    assert two.read_return(6) is two.read_return(8) is None
    one.close()
    two.close()


def test_a_board_is_not_inherited() -> None:
    fd = boards.create()
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_what_a_killed_process_has_written_stays() -> None:
    fd = boards.create()
    board = Board(fd)
    script = (
        "import os, signal, sys\n"
        "from worker.board import Board\n"
        "Board(int(sys.argv[1])).write_call(41, 2.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(fd)],
        pass_fds=[fd],
        env={"PYTHONPATH": str(Path(boards.__file__).parents[1])},
        check=False,
    )
    os.close(fd)
    assert done.returncode == -9
    call = board.read_call(41)
    assert call is not None
    # Both processes read the same monotonic clock.
    assert call[0] <= time.monotonic()
    assert call[1] == 2.5
    board.close()


def board() -> Board:
    fd = boards.create()
    made = Board(fd)
    os.close(fd)
    return made


def test_reports_are_read_once_each_in_order() -> None:
    one = board()
    texts = [b"", b"{}", b"x" * FRAME_MAX, "ä".encode()]
    for text in texts[:2]:
        one.write_report(text)
    found = list(one.read_reports(0))
    assert [text for text, _ in found] == texts[:2]
    assert list(one.read_reports(found[-1][1])) == []
    for text in texts[2:]:
        one.write_report(text)
    assert [text for text, _ in one.read_reports(found[-1][1])] == texts[2:]
    one.clear()
    assert list(one.read_reports(0)) == []
    one.close()


def test_the_tray_holds_a_whole_pack_of_the_largest_reports() -> None:
    one = board()
    for _ in range(boards.PACK_MAX):
        one.write_report(b"x" * FRAME_MAX)
    assert [len(text) for text, _ in one.read_reports(0)] == [FRAME_MAX] * boards.PACK_MAX
    with pytest.raises(ValueError, match="does not fit on the tray"):
        one.write_report(b"x" * boards.SIZE)
    assert len(list(one.read_reports(0))) == boards.PACK_MAX
    one.close()


@pytest.mark.parametrize("noise", [b"\xff" * 8, b"\xff\xff\xff\x7f" * 2])
def test_a_tray_that_was_filled_by_somebody_else_can_still_be_looked_at(noise: bytes) -> None:
    one = board()
    one.write_report(b"{}")
    one._page[boards._FILLED_AT : boards._FILLED_AT + 8] = noise
    try:
        assert sum(len(text) for text, _ in itertools.islice(one.read_reports(0), 1_000_000)) <= boards.SIZE
    finally:
        one.close()


@pytest.mark.parametrize("offset", [offset for offset in range(0, 128, 8) if offset != boards._FILLED_AT])
@pytest.mark.parametrize("noise", [b"\xff" * 8, b"\0" * 8, b"\x01" * 8, b"\xff\xff\xff\x7f" * 2])
def test_a_board_that_was_written_over_can_still_be_looked_at(offset: int, noise: bytes) -> None:
    one = board()
    one.write_call(3, 1.0)
    one.write_report(b"{}")
    for start in (offset, boards._TRAY + offset):
        one._page[start : start + 8] = noise
        one.read_call(3)
        one.read_begun(3)
        assert sum(len(text) for text, _ in itertools.islice(one.read_reports(0), 1_000_000)) <= boards.SIZE
    one.close()
