"""Tasks that end their process."""

import ctypes
import os
import signal
import sys


def exit_with(code: int) -> None:
    os._exit(code)


def sys_exit(code: int = 3) -> None:
    sys.exit(code)


def kill_itself(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def overflow_the_stack() -> None:
    sys.setrecursionlimit(2**30)
    nested = []
    for _ in range(10**6):
        nested = [nested]
    repr(nested)


def die_the_first_time(mark: str) -> str:
    """Killed in the first attempt, well in the second."""
    if not os.path.exists(mark):
        with open(mark, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"
