"""Tasks that start as many threads or processes as they can; never more than they are told, and never for long."""

import os
import signal
import threading
import time
from contextlib import suppress

from zoo import kin

COUNT_MAX = 3_000
HOLD_S = 20.0
"""A bomb that nobody has ended is gone after so long."""


def _hold(until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        time.sleep(left)


def threads(count: int = COUNT_MAX) -> int:
    """Fails where no more are to be had."""
    threading.stack_size(64 * 1024)
    until = time.monotonic() + HOLD_S
    for _ in range(min(count, COUNT_MAX)):
        threading.Thread(target=_hold, args=(until,), daemon=True).start()
    _hold(until)
    return count


def insistent_threads(count: int = COUNT_MAX) -> int:
    """Tries again and again."""
    threading.stack_size(64 * 1024)
    until = time.monotonic() + HOLD_S
    made = 0
    while made < min(count, COUNT_MAX) and time.monotonic() < until:
        with suppress(RuntimeError):
            threading.Thread(target=_hold, args=(until,), daemon=True).start()
            made += 1
            continue
        time.sleep(0.001)
    _hold(until)
    return made


def threads_in_a_child(path: str, count: int = COUNT_MAX) -> int:
    return os.waitpid(kin.fork(path, lambda: insistent_threads(count)), 0)[1]


def forks(path: str, count: int = COUNT_MAX) -> int:
    """Fails where no more are to be had."""
    until = time.monotonic() + HOLD_S
    for _ in range(min(count, COUNT_MAX)):
        kin.fork(path, lambda: _hold(until))
    _hold(until)
    return count


def every_child_forks(path: str, count: int = COUNT_MAX) -> int:
    """The classic: each process starts others as fast as it can, undisturbed by refusals."""
    read, write = os.pipe()
    os.write(write, b"x" * min(count, COUNT_MAX))  # one for each process there may ever be
    os.set_blocking(read, False)
    until = time.monotonic() + HOLD_S
    noted = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def burst() -> None:
        while time.monotonic() < until:
            try:
                os.read(read, 1)
            except BlockingIOError:
                break
            try:
                pid = os.fork()
            except OSError:
                with suppress(OSError):
                    os.write(write, b"x")
                time.sleep(0.001)
                continue
            if pid == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(HOLD_S) + 1)
                os.write(noted, f"{os.getpid()} {kin.started(os.getpid())}\n".encode())
        _hold(until)

    me = os.getpid()
    try:
        burst()
    finally:
        if os.getpid() != me:
            os._exit(0)
    return count
