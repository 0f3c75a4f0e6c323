"""How the wall benchmark sees processes end: through descriptors of its own, without asking battd."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from families import started


class Watch:
    """Processes from now until each has ended, whoever's they are; a context manager.

    Attributes:
        ended: When each was seen to have ended, on the monotonic clock; one that was gone before, too.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.ended: dict[int, float] = {}
        self._fds: dict[int, int] = {}
        self._poll = select.poll()
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self.ended[pid] = time.monotonic()
                continue
            self._fds[fd] = pid
            self._poll.register(fd, select.POLLIN)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def wait(self, pids: Collection[int], within_s: float) -> bool:
        """Wait until all of `pids` have ended; whether they have."""
        until = time.monotonic() + within_s
        with at_once():
            while not all(pid in self.ended for pid in pids):
                ready = self._poll.poll(max(0.0, until - time.monotonic()) * 1000)
                now = time.monotonic()
                for fd, _ in ready:
                    self.ended[self._fds.pop(fd)] = now
                    self._poll.unregister(fd)
                    os.close(fd)
                if not ready:
                    return False
        return True


@contextmanager
def at_once() -> Iterator[None]:
    """Where it is allowed, this thread gets a CPU as soon as it has something to do: who watches must not add delay."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def noted(path: Path) -> list[list[str]]:
    """The words of each whole line that tasks have noted."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def calls(path: Path, count: int, within_s: float = 30.0) -> dict[int, float]:
    """When each of so many hung tasks was called, by the pid of its process, once all have been."""
    until = time.monotonic() + within_s
    while len(found := noted(path)) < count:
        if time.monotonic() > until:
            raise AssertionError(f"only {len(found)} of {count} tasks were called within {within_s:g} s")
        time.sleep(0.005)
    return {int(pid): float(at) for pid, at in found}


def family(path: Path) -> dict[int, int]:
    """Start times by pid of what tasks have left behind."""
    return {int(pid): int(since) for pid, since in noted(path)}


def living(processes: dict[int, int]) -> list[int]:
    """Those that have not ended; a later process with the same pid is another one."""
    return [pid for pid, since in processes.items() if started(pid) == since]
