"""Tasks of the wall benchmark that leave processes behind, one kind at a time or all of them.

Every process that is left notes its own pid and start time before anything else. Standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from hangs import LIFETIME_S, note


def started(pid: int) -> int:
    """Clock ticks since boot: with the pid, the name of one process; 0 for one that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _fork(then: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            then()
        finally:
            os._exit(0)
    return pid


def _stay(path: str) -> NoReturn:
    note(path, os.getpid(), started(os.getpid()))
    signal.alarm(LIFETIME_S)
    while True:
        time.sleep(LIFETIME_S)


def _stay_stripped(path: str) -> NoReturn:
    """As another program, without an environment, so that nothing tells where it came from."""
    note(path, os.getpid(), started(os.getpid()))
    os.execve("/bin/sleep", ["sleep", str(LIFETIME_S)], {})


def _forked_twice(stay: Callable[[str], NoReturn], path: str) -> None:
    def leave() -> None:
        os.setsid()
        _fork(lambda: stay(path))

    os.waitpid(_fork(leave), 0)


def child(path: str) -> None:
    _fork(lambda: _stay(path))


def own_session(path: str) -> None:
    _fork(lambda: (os.setsid(), _stay(path)))


def forked_twice(path: str) -> None:
    """In a session of its own, its parent gone."""
    _forked_twice(_stay, path)


def forked_twice_stripped(path: str) -> None:
    _forked_twice(_stay_stripped, path)


def holds_pipe(path: str) -> int:
    """A grandchild that keeps the writing end of a pipe, as one does that was started by a shell; the reading end."""
    read, write = os.pipe()
    os.waitpid(_fork(lambda: _fork(lambda: _stay(path))), 0)
    os.close(write)
    return read


KINDS = ("child", "own_session", "forked_twice", "forked_twice_stripped", "holds_pipe")


def leave(kinds: Sequence[str], path: str, how: str) -> int:
    """Leave one process of each kind, see that all have noted themselves, and `return` or `hang`; how many they are."""
    pipes = [read for kind in kinds if (read := globals()[kind](path)) is not None]
    while not os.path.exists(path) or _lines(path) < len(kinds):  # noqa: PTH110 - nothing more is imported than needed
        time.sleep(0.002)
    if how == "hang":
        for read in pipes:
            os.read(read, 1)  # comes back when the grandchild has gone
        time.sleep(LIFETIME_S)
    for read in pipes:
        os.close(read)
    return len(kinds)


def _lines(path: str) -> int:
    with open(path, "rb") as file:
        return file.read().count(b"\n")
