"""Starts worker processes for pebble: a multiprocessing context of ours, whose processes come from a nursery.

No named semaphores, no resource tracker, no copy of battd's `__main__`, no fork of battd itself.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EAGAIN
from multiprocessing import connection
from multiprocessing.context import reduction, set_spawning_popen  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import Any

from batt_supervisor.core.model import Room, WorkerId
from batt_supervisor.pool import process as worker_process
from batt_supervisor.pool.group import Group
from batt_supervisor.pool.nursery import ForkRefused, NoWorker, Nursery, Places
from worker import board
from worker.process import Handed, LocalRLock, WorkerProcess


@dataclass(slots=True)
class Launcher:
    """A pebble pool's multiprocessing context: starts its workers in `room`, which may be changed between two of them.

    Attributes:
        nursery: Gives the nursery of a room, if one answers there.
        launched: Called with each new worker, in the thread that started it (one of pebble's, or the builder).
        group: The control group of the slot's workers, where there are such groups.
        not_before_s: Monotonic time before which no worker is started: the last one did not come up.
        refused: Why the last worker could not be started; empty once one could.
    """

    places: Places
    registry: worker_process.Registry
    room: Room
    nursery: Callable[[Room], Nursery | None]
    nofile: tuple[int, int]
    launched: Callable[[worker_process.Process], None]
    group: Group | None = None
    not_before_s: float = 0.0
    refused: str = field(default="")

    def Pipe(self, duplex: bool = True) -> tuple[Any, Any]:
        return connection.Pipe(duplex)

    def RLock(self) -> LocalRLock:
        return LocalRLock()

    def get_start_method(self, allow_none: bool = False) -> str:
        return "spawn"

    def Process(self, **given: Any) -> WorkerProcess:
        return WorkerProcess(lambda process: _Started(process, self), **given)

    def start(self, pickled: bytes, pipes: list[int]) -> worker_process.Process:
        """Have a worker forked.

        Raises:
            NoWorker: Not now.
            OSError: No descriptor, or no room for a log.
        """
        nursery = self.nursery(self.room)
        if nursery is None or time.monotonic() < self.not_before_s:
            raise NoWorker(EAGAIN, "its nursery is starting" if nursery is None else "the last one did not come up")
        number = self.registry.number()
        log = f"worker-{os.getpid()}-{number}.log"
        kept: list[int] = []  # this process's, if all goes well
        sent: list[int] = []
        page: board.Board | None = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            kept.append(os.open(self.places.logs / log, flags, 0o600))
            board_fd = board.create()
            sent.append(board_fd)
            page = board.Board(board_fd)
            told, tell = os.pipe()
            kept.append(told)
            sent.append(tell)
            os.set_blocking(told, False)
            request = {
                "process": pickled,
                "groups": self.group.entrances if self.group is not None else [],
                "number": number,
                "log": log,
                "nofile": self.nofile,
            }
            born = nursery.fork(request, [kept[0], board_fd, tell, *pipes])
        except BaseException:
            for fd in kept:
                os.close(fd)
            if page is not None:
                page.close()
            with suppress(OSError):
                (self.places.logs / log).unlink()
            raise
        finally:
            for fd in sent:
                os.close(fd)
        worker = WorkerId(born.pid, born.started, log)
        fds = (born.pidfd, kept[1], kept[0])
        return worker_process.Process(worker, number, fds, page, nursery, self.places.logs, self.group)


class _Started:
    """What multiprocessing calls a Popen: the started process, as far as pebble uses it."""

    def __init__(self, process: BaseProcess, launcher: Launcher) -> None:
        self._fds: list[int] = []
        out = io.BytesIO()
        spawning: Any = self
        set_spawning_popen(spawning)  # connections in the process object ask it to pass their descriptors on
        try:
            reduction.dump(process, out)
        finally:
            set_spawning_popen(None)
        try:
            self._process = launcher.start(out.getvalue(), self._fds)
        except OSError as error:
            launcher.refused = error.strerror or str(error)
            if isinstance(error, ForkRefused) or not isinstance(error, NoWorker):
                launcher.registry.refused()
            raise
        launcher.refused = ""
        self.pid = self._process.id.pid
        self.sentinel = self._process.descriptor()  # pebble does not wait on it
        launcher.launched(self._process)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def DupFd(self, place: int) -> Handed:
        return Handed(place)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        code = self._process.exit_code()
        # 0 would tell pebble that it left of its own will, with nothing in hand.
        return worker_process.UNKNOWN if code == 0 else code

    def wait(self, timeout: float | None = None) -> int | None:
        return self._process.wait(3600.0 if timeout is None else timeout)

    def terminate(self) -> None:
        # pebble's gentle way would wait 3 s for a worker that does not listen; by then it is ours to end, at once.
        self._process.signal(signal.SIGKILL)

    kill = terminate

    @property
    def returncode(self) -> int | None:
        return self.poll()
