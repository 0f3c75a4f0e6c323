"""Starts worker processes for pebble: a multiprocessing context of our own.

Each worker is a fresh interpreter (`worker/boot.py`) in a session of its own, with its room's environment, its output
in a log of its own. No named semaphores, no resource tracker, no copy of battd's `__main__`.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import reduction, set_spawning_popen  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import worker
from batt_supervisor.core.model import Room, WorkerId
from batt_supervisor.pool import proc
from worker import board
from worker.process import LocalRLock, WorkerProcess

ROOT: Final = str(Path(worker.__file__).parent.parent)

CAPS: Final[Mapping[str, str]] = {
    # One task is one core's work; a library that starts a thread for each core in each worker is how threads run out.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    # glibc gives each new thread an arena of 64 MiB of address space otherwise.
    "MALLOC_ARENA_MAX": "2",
}
"""Set for workers unless battd's own environment or the run says otherwise."""

OWN: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""battd's own business with its service manager."""

TOKEN: Final = "BATT_WORKER_OF"
"""Variable in every worker's environment that names its battd, so that a later one can find what was left behind."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where workers write, and what they are told. The same for every worker of a battd.

    Attributes:
        token: Value of the variable `TOKEN`.
        value_max: Bytes of JSON that a result may have.
    """

    logs: Path
    results: Path
    token: str
    socket: str
    value_max: int


@dataclass(slots=True)
class Process:
    """A worker process that has been started.

    Attributes:
        pidfd: Readable once the process has ended.
        log_fd: Its log, to ask for its size.
    """

    id: WorkerId
    pidfd: int
    log_fd: int
    board: board.Board
    _child: subprocess.Popen[bytes]

    def exit_code(self) -> int | None:
        """As os.waitstatus_to_exitcode gives it; None while it lives."""
        return self._child.poll()

    def close(self) -> None:
        os.close(self.pidfd)
        os.close(self.log_fd)
        self.board.close()


class Registry:
    """Every worker process of this battd that has not been waited for.

    The lock is held while one is started: whoever looks for strays must not take a new worker for one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """A number no other worker of this battd has."""
        return next(self._numbers)

    def add(self, child: subprocess.Popen[bytes]) -> None:
        self._children[child.pid] = child

    def pids(self) -> set[int]:
        """Call with the lock held."""
        for pid in [pid for pid, child in self._children.items() if child.poll() is not None]:
            del self._children[pid]
        return set(self._children)


@dataclass(slots=True)
class Launcher:
    """A pebble pool's multiprocessing context: starts its workers in `room`, which may be changed between two of them.

    Attributes:
        launched: Called with each new worker, in the thread that started it (one of pebble's, or the builder).
    """

    places: Places
    registry: Registry
    room: Room
    preload: tuple[str, ...]
    launched: Callable[[Process], None]
    environ: Mapping[str, str] = field(default_factory=dict)

    def Pipe(self, duplex: bool = True) -> tuple[Any, Any]:
        return connection.Pipe(duplex)

    def RLock(self) -> LocalRLock:
        return LocalRLock()

    def get_start_method(self, allow_none: bool = False) -> str:
        return "spawn"

    def Process(self, **given: Any) -> WorkerProcess:
        return WorkerProcess(lambda process: _Started(process, self), **given)

    def open_log(self) -> tuple[str, int]:
        """A new log's name and descriptor."""
        name = f"worker-{os.getpid()}-{self.registry.number()}.log"
        return name, os.open(self.places.logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def environment(self) -> dict[str, str]:
        """What the next worker sees, once it has started."""
        kept = {key: value for key, value in self.environ.items() if key not in OWN}
        own = {"BATT_SOCKET": self.places.socket, TOKEN: self.places.token}
        return {**CAPS, **kept, **dict(self.room.env), **own}


class _Started:
    """What multiprocessing calls a Popen: the started process, as far as pebble uses it."""

    def __init__(self, process: BaseProcess, launcher: Launcher) -> None:
        self._fds: list[int] = []
        log, log_fd = launcher.open_log()
        board_fd = board.create()
        read_fd, write_fd = os.pipe()
        opened = [log_fd, board_fd, read_fd, write_fd]
        try:
            environment = launcher.environment()
            # These would decide what the interpreter and `boot` itself import; `boot` puts them in force afterwards.
            python = {name: environment.pop(name) for name in set(environment) & {"PYTHONPATH", "PYTHONHOME"}}
            request = self._pickled(process, launcher, board_fd, python)
            with launcher.registry.lock:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", f"{ROOT}/worker/boot.py", ROOT, str(read_fd), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log_fd,
                    stderr=log_fd,
                    cwd="/",
                    env=environment,
                    pass_fds=[*self._fds, board_fd, read_fd],
                    start_new_session=True,
                )
                launcher.registry.add(self._child)
            self.pid = self._child.pid
            self.sentinel = os.pidfd_open(self.pid)
            weakref.finalize(self, os.close, self.sentinel)
            # Below a pipe's capacity of 64 KiB, so this cannot wait for the reader.
            os.write(write_fd, request)
            found = proc.stat(self.pid)
            started = WorkerId(self.pid, found.started if found else 0, log)
            launched = Process(started, os.dup(self.sentinel), os.dup(log_fd), board.Board(board_fd), self._child)
        finally:
            for fd in opened:
                os.close(fd)
        launcher.launched(launched)

    def _pickled(self, process: BaseProcess, launcher: Launcher, board_fd: int, python: dict[str, str]) -> bytes:
        settings = {
            "python": python,
            "board": board_fd,
            "cwd": launcher.room.cwd,
            "preload": launcher.preload,
            "results": str(launcher.places.results),
            "value_max": launcher.places.value_max,
        }
        out = io.BytesIO()
        pickle.dump(settings, out)
        spawning: Any = self
        set_spawning_popen(spawning)  # connections in the process object ask it to pass their descriptors on
        try:
            reduction.dump(process, out)
        finally:
            set_spawning_popen(None)
        return out.getvalue()

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def DupFd(self, fd: int) -> Any:
        from multiprocessing.popen_spawn_posix import _DupFd

        return _DupFd(fd)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        return self._child.poll()

    def wait(self, timeout: float | None = None) -> int | None:
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        # pebble's gentle way would wait 3 s for a worker that does not listen; by then it is ours to end, at once.
        self._child.kill()

    def kill(self) -> None:
        self._child.kill()

    @property
    def returncode(self) -> int | None:
        return self._child.returncode
