"""Tasks that print and die, and such as write what they like where their worker tells of itself."""

import os
import struct
import time
from typing import NoReturn

from worker import board, entry

LIFETIME_S = 60.0


def say(words: str) -> None:
    print(words)


def say_and_leave(words: str) -> None:
    print(words)
    os._exit(3)


def memory_max() -> int:
    """What its worker was started with."""
    return entry.here.memory_max


def report(text: str, name: str = "", content: str = "") -> NoReturn:
    """Write this on the board in place of a report, and this file where results are."""
    if name:
        with open(f"{entry.here.results}/{name}", "w") as file:
            file.write(content)
    entry.here.board.write_report(text.encode())
    while True:
        time.sleep(LIFETIME_S)


def say_called_at(time_s: str) -> NoReturn:
    """Another time than the true one."""
    struct.pack_into("<d", entry.here.board._page, board._CALL_AT, float(time_s))
    while True:
        time.sleep(LIFETIME_S)
