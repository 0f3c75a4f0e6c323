"""The tasks of a chaos run. Each notes from within when it began and ended, and finds out whether it was alone.

Standard library only: workers import this. `folder` is the run's, `name` the task's own; a lock on a file of that name
is held for as long as any process of the attempt lives, so whoever finds it taken has met another attempt of itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

LIFETIME_S = 100
"""What has escaped ends by itself after that, whatever the supervisor does."""


def note(folder: str, *words: object) -> None:
    """Append one line; O_APPEND keeps lines of several processes apart."""
    fd = os.open(f"{folder}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


@contextmanager
def recorded(folder: str, name: str) -> Iterator[None]:
    """Note the begin and, unless the process ends before it, the end.

    Raises:
        BlockingIOError: Another attempt of this task is alive.
    """
    lock = os.open(f"{folder}/locks/{name}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(folder, name, "overlap", os.getpid(), time.monotonic())
        raise
    note(folder, name, "start", os.getpid(), time.monotonic())
    try:
        yield
    finally:
        note(folder, name, "end", os.getpid(), time.monotonic())
        os.close(lock)  # a child that still has it keeps it locked


def blob(name: str, size: int) -> str:
    """A text of `size` characters that only this name gives."""
    parts = [hashlib.sha256(f"{name}:{number}".encode()).hexdigest() for number in range(size // 64 + 1)]
    return "".join(parts)[:size]


def lines(name: str) -> list[str]:
    """What the task of this name prints."""
    return [f"{name} line {number}" for number in range(5)]


def nothing(folder: str, name: str) -> str:
    with recorded(folder, name):
        return name


def nap(folder: str, name: str, seconds: float) -> str:
    with recorded(folder, name):
        time.sleep(seconds)
    return name


def large(folder: str, name: str, size: int) -> str:
    with recorded(folder, name):
        return blob(name, size)


def prints(folder: str, name: str) -> str:
    with recorded(folder, name):
        for line in lines(name):
            print(line, flush=True)
    return name


def raises(folder: str, name: str) -> None:
    with recorded(folder, name):
        raise ValueError(name)


def dies(folder: str, name: str, number: int) -> None:
    with recorded(folder, name):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        time.sleep(LIFETIME_S)


def leaves(folder: str, name: str, code: int) -> None:
    with recorded(folder, name):
        os._exit(code)


def hangs(folder: str, name: str) -> None:
    with recorded(folder, name):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(LIFETIME_S)


def escapes(folder: str, name: str) -> str:
    """Leave a process behind that has a session of its own, and whose parent is gone. It holds the lock, too."""
    with recorded(folder, name):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                signal.alarm(LIFETIME_S)
                note(folder, name, "escaped", os.getpid(), _started(os.getpid()))
                os.write(write, b"x")
                time.sleep(LIFETIME_S)
            os._exit(0)
        os.waitpid(child, 0)
        os.read(read, 1)
        os.close(read)
        os.close(write)
    return name


def _started(pid: int) -> int:
    """Clock ticks since boot: with the pid it names one process."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    return int(text[text.rindex(b")") + 2 :].split()[19])
