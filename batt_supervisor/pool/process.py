"""A worker process from birth to exit code, and the list of battd's own children."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from batt_supervisor.core.model import Room, WorkerId
from batt_supervisor.pool.group import Group
from batt_supervisor.pool.nursery import Nursery
from worker import board
from worker.nursery import STATUS

UNKNOWN: Final = 255
"""What a worker's exit code is called when nobody is left who could tell it."""

STATUS_S: Final = 5.0
"""How long a nursery may take to tell of the end of a worker that has ended; then it is given up as stuck."""


class Process:
    """A worker process that has been started, from birth to exit code.

    Any thread may ask `exit_code`; the rest belongs to the loop.

    Attributes:
        id: Its pid, start time and log.
        number: Of this worker among all of its battd; requests carry it.
        log_fd: Its log, to ask for its size and to write a heading into.
        orphaned: Its nursery went first, and it was lost together with whatever else that had forked.
        rolled: The number of the log that `log_fd` is.
        stamps: Files that its preloaded modules came from, as they were then.
        survivors: Processes it left behind that did not end when they were killed.
    """

    def __init__(
        self,
        worker: WorkerId,
        number: int,
        fds: tuple[int, int, int],
        page: board.Board,
        nursery: Nursery,
        logs: Path,
        group: Group | None,
    ) -> None:
        self.id = worker
        self.number = number
        self._pidfd, self._exit_fd, self.log_fd = fds
        self.board = page
        self.orphaned = False
        self.survivors = 0
        self.stamps = nursery.stamps
        self._nursery, self._logs = nursery, logs
        self.rolled = 0
        self._group = group
        self._lock = threading.RLock()
        self._code: int | None = None
        self._closed = False
        self._dead_since_s: float | None = None

    def descriptor(self) -> int:
        """Becomes readable when the process has ended, or is about to."""
        return self._pidfd if self.orphaned else self._exit_fd

    def exit_code(self) -> int | None:
        """As os.waitstatus_to_exitcode gives it; None while it lives, or while what it left is being ended."""
        with self._lock:
            if self._code is None:
                self._code = UNKNOWN if self._closed else self._ask()
                if self._code is not None:
                    self._clear_group()
            return self._code

    def _clear_group(self) -> None:
        """Leave the control group to the next worker as the first found it.

        Whoever hears of this one's end first does so, and nobody starts the next one before he has heard of it.
        """
        if self._group is not None:
            if self._group.members():
                self._group.kill()  # what no walk has found
            self._group.limit(None, None)

    def _ask(self) -> int | None:
        if not self.orphaned:
            try:
                told = os.read(self._exit_fd, STATUS.size)
            except BlockingIOError:
                self._hurry()
                return None
            if told:
                status, self.survivors = STATUS.unpack(told)
                return os.waitstatus_to_exitcode(status)
            # The nursery is gone, and with it whoever could wait for this process. The kernel kills it about now.
            self.orphaned = True
            self.signal(signal.SIGKILL)
        return UNKNOWN if _readable(self._pidfd) else None

    def _hurry(self) -> None:
        """A worker that has ended without a word of its nursery: that is stuck, and has to go."""
        if not _readable(self._pidfd):
            return
        now_s = time.monotonic()
        self._dead_since_s = self._dead_since_s or now_s
        if now_s - self._dead_since_s > STATUS_S:
            self._nursery.fail("it does not tell of the end of its workers")

    @property
    def room(self) -> Room:
        """The one that it is in."""
        return self._nursery.room

    def outdated(self) -> str:
        """Why it should serve no further attempt, for what it was forked from is out of date; empty while it may."""
        return self._nursery.outdated

    def log_name(self, number: int) -> str:
        """The name of the worker's log of this number; a new one is begun when an attempt has written something."""
        return f"{self.id.log}.{number}" if number else self.id.log

    def follow_log(self) -> None:
        """Go over to the log that its output goes to now."""
        number = self.board.read_log()
        if number == self.rolled:
            return
        try:
            fd = os.open(self._logs / self.log_name(number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return  # no descriptor to be had now; or somebody has written over its board
        os.close(self.log_fd)
        self.log_fd, self.rolled = fd, number

    def present(self) -> WorkerId:
        """The worker, with the log that its output goes to now."""
        return self.at_log(self.rolled)

    def at_log(self, number: int) -> WorkerId:
        """The worker, with its log of that number."""
        return replace(self.id, log=self.log_name(number)) if number else self.id

    def signal(self, number: int) -> None:
        """Send the process a signal, if it is still there; never another one that has got its pid."""
        with self._lock, suppress(ProcessLookupError):
            if not self._closed:
                signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, when it ends within the time; else None."""
        until_s = time.monotonic() + timeout_s
        while (code := self.exit_code()) is None and (left_s := until_s - time.monotonic()) > 0:
            _readable(self.descriptor(), min(left_s, 0.1))
        return code

    def stop(self) -> None:
        """End it."""
        self.signal(signal.SIGKILL)

    def gone(self) -> bool:
        """Whether it has ended; it is then closed."""
        if self.exit_code() is None:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Let go of it, and of its log if that is empty; it must have ended."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not os.fstat(self.log_fd).st_size:
                with suppress(OSError):  # gone, or of a file system that takes no writes any more
                    (self._logs / self.log_name(self.rolled)).unlink()
            for fd in (self._pidfd, self._exit_fd, self.log_fd):
                os.close(fd)
        self.board.close()
        self._nursery.workers -= 1


def _readable(fd: int, within_s: float = 0.0) -> bool:
    waiter = select.poll()
    waiter.register(fd, select.POLLIN)
    return bool(waiter.poll(within_s * 1000))


class Registry:
    """Every child of this battd that has not been waited for: its nurseries.

    Attributes:
        refusals: How often the kernel has refused what a slot needed.

    The lock is held while one is started: whoever looks for strays must not take a new nursery for one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._numbers = itertools.count(1)
        self._refusals = itertools.count(1)
        self.refusals = 0

    def number(self) -> int:
        """A number no other worker or nursery of this battd has."""
        return next(self._numbers)

    def refused(self) -> None:
        """Any thread: the kernel refused a process, a thread, memory or a descriptor."""
        self.refusals = next(self._refusals)

    def add(self, child: subprocess.Popen[bytes]) -> None:
        self._children[child.pid] = child

    def pids(self) -> set[int]:
        """Call with the lock held."""
        for pid in [pid for pid, child in self._children.items() if child.poll() is not None]:
            del self._children[pid]
        return set(self._children)
