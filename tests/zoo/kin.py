"""How tasks of the zoo start processes: each is noted in a file with its start time, and none of them lives long.

A line of the file is `pid started`, so that a test can tell a process from a later one that got its pid. Nothing
depends on the environment of the process, which may be empty, nor on its parent, which may be gone.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

LIFETIME_S = 100
"""After so long a process of the zoo ends by itself, whatever the supervisor does."""


def started(pid: int) -> int:
    """Clock ticks since boot; 0 for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


def note(path: str, pid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, f"{pid} {started(pid)}\n".encode())
    os.close(fd)


def be_mortal() -> None:
    """For a process that was just forked; it may ignore every other signal."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.alarm(LIFETIME_S)


def fork(path: str, then: Callable[[], object]) -> int:
    """A child that notes itself, does something, and never comes back; its pid, once it has been noted."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            be_mortal()
            os.close(read)
            note(path, os.getpid())
            os.write(write, b"x")
            os.close(write)
            then()
        finally:
            os._exit(0)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid


def rest() -> NoReturn:
    """Sleep as long as there is to live."""
    until = time.monotonic() + LIFETIME_S
    while time.monotonic() < until:
        time.sleep(min(1.0, LIFETIME_S))
    os._exit(0)


def spin() -> NoReturn:
    until = time.monotonic() + LIFETIME_S
    while time.monotonic() < until:
        pass
    os._exit(0)


def sleeper(environment: dict[str, str] | None = None) -> NoReturn:
    """Become another program that sleeps; without an environment unless one is given."""
    os.execve("/bin/sleep", ["sleep", str(LIFETIME_S)], environment or {})
