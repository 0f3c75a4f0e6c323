"""Tasks of the wall benchmark that never come back. Standard library only: workers and pebble's processes import it.

Each notes `pid moment` in a file first, the moment being that of its call on the monotonic clock.
"""

from __future__ import annotations

import os
import signal
import time

LIFETIME_S = 100
"""After so long whatever can end by itself does, should nobody end it."""


def note(path: str, *words: object) -> None:
    """Append one line, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def _called(path: str) -> float:
    called = time.monotonic()
    note(path, os.getpid(), called)
    return called + LIFETIME_S


def spin(path: str) -> None:
    until = _called(path)
    while time.monotonic() < until:
        pass


def ignore_signals(path: str) -> None:
    """SIGTERM and every other signal that can be ignored."""
    until = _called(path)
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while time.monotonic() < until:
        time.sleep(0.1)


def loop_in_c(path: str) -> None:
    """No Python handler ever runs; of all of these, only this one has no end of its own."""
    _called(path)
    sum(range(10**15))


def stop_itself(path: str) -> None:
    _called(path)
    os.kill(os.getpid(), signal.SIGSTOP)


KINDS = ("spin", "ignore_signals", "loop_in_c", "stop_itself")


def mixed(path: str, number: int) -> None:
    """The kind that the number says."""
    globals()[KINDS[number % len(KINDS)]](path)


def who(number: int) -> int:
    """What does not hang: the worker's pid, by which it is seen whether two tasks had the same one."""
    return os.getpid()
