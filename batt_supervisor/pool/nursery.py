"""battd's side of a nursery: started in the builder's thread, asked for workers in those of pebble.

`worker/nursery.py` is the program at the other end of the socket.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pebble

import worker
from batt_supervisor.core.model import Room
from batt_supervisor.pool import proc, reports
from worker import family, fresh
from worker.nursery import MESSAGE_MAX

ROOT: Final = str(Path(worker.__file__).parent.parent)
PEBBLE: Final = str(Path(pebble.__file__).parent.parent)

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
"""Variable in every nursery's and worker's environment that names its battd: a later one finds by it what was left."""

ANSWER_S: Final = 10.0
"""How long a nursery may take for a fork, 5 ms as a rule, before it is given up as stuck."""

LEAVE_S: Final = 3.0
"""How long a nursery may take to end what is below it and go, before it is killed."""


class NoWorker(OSError):
    """No worker can be started now: refused by the kernel, or its nursery is not there. To be tried again."""


class ForkRefused(NoWorker):
    """The kernel refused it: no process, memory or descriptor was to be had."""


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


@dataclass(frozen=True, slots=True)
class Settings:
    """What nurseries are made with.

    Attributes:
        preload: Modules that every worker is to have.
        environ: battd's own environment, as workers are to see it.
        spawn: Each worker is a fresh interpreter.
        memory_max: Private memory in bytes above which a worker serves no further attempt; 0 for no limit.
    """

    preload: tuple[str, ...]
    environ: Mapping[str, str]
    spawn: bool = False
    memory_max: int = 0


@dataclass(frozen=True, slots=True)
class Born:
    """A worker that was just forked; `pidfd` is the caller's to close."""

    pid: int
    started: int
    pidfd: int


class Nursery:
    """One nursery, from the decision to start it until it is gone.

    Attributes:
        ready: It answers requests.
        proved: A worker of it has come up.
        trouble: Why it does not any more, or never did; empty while it may.
        since_s: When it was decided on, then when its room was last in use; monotonic.
        workers: Its workers that have not been let go of.
        threads: How many it has; more than one makes forking unsafe.
        stamps: Files that its preloaded modules came from, as they were then.
        outdated: Why none of its workers should serve a further attempt; empty while they may.
    """

    def __init__(self, room: Room, places: Places, settings: Settings, number: int, now_s: float) -> None:
        self.room = room
        self.ready = False
        self.proved = False
        self.trouble = ""
        self.outdated = ""
        self.since_s = now_s
        self.workers = 0
        self.threads = 1
        self._places, self._settings = places, settings
        self._log = places.logs / f"nursery-{os.getpid()}-{number}.log"
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._retired_s = 0.0
        self.stamps: dict[str, fresh.Stamp] = {}

    # Its start

    def start(self) -> subprocess.Popen[bytes] | None:
        """Start the process, unless it is not wanted any more; in the builder's thread, with the registry locked.

        Raises:
            OSError: Refused a process or a descriptor; nothing was started.
        """
        with self._lock:
            return None if self.trouble else self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = self._environment()
        # These would decide what the interpreter and the worker itself import; they are put in force afterwards.
        python = {name: environment.pop(name) for name in set(environment) & {"PYTHONPATH", "PYTHONHOME"}}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, self._log.open("ab") as log:
                child = subprocess.Popen(
                    [
                        self.room.python or sys.executable, "-P", f"{ROOT}/worker/nursery.py",
                        ROOT, str(theirs.fileno()), str(os.getpid()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )  # fmt: skip
            try:
                self._pidfd = os.pidfd_open(child.pid)
                ours.send(json.dumps(self._told(python)).encode())
            except OSError:
                child.kill()
                child.wait()
                raise
        except OSError:
            ours.close()
            raise
        self._control, self._child = ours, child
        return child

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in self._settings.environ.items() if key not in OWN}
        own = {"BATT_SOCKET": self._places.socket, TOKEN: self._places.token}
        return {**CAPS, **kept, **dict(self.room.env), **own}

    def _told(self, python: dict[str, str]) -> dict[str, Any]:
        return {
            "root": ROOT,
            "paths": [] if not self.room.python else [PEBBLE],
            "python": python,
            "cwd": self.room.cwd,
            "preload": self._settings.preload,
            "spawn": self._settings.spawn,
            "version": sys.version_info[:2],
            "version_text": ".".join(map(str, sys.version_info[:2])),
            "results": str(self._places.results),
            "logs": str(self._places.logs),
            "value_max": self._places.value_max,
            "memory_max": self._settings.memory_max,
        }

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    # The loop looks after it

    def descriptors(self) -> list[int]:
        """What becomes readable when `look` has something to see."""
        if self._control is None or self.trouble:
            return []
        return [self._pidfd] if self.ready else [self._pidfd, self._control.fileno()]

    def look(self) -> None:
        """See whether it has become ready, or has ended."""
        if self._control is None or self._child is None or self.trouble:
            return
        if not self.ready and self._lock.acquire(blocking=False):
            try:
                self._hear(self._control)
            except BlockingIOError:
                pass
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.fail(f"it cannot be understood: {error}")
            finally:
                self._lock.release()
        if not self.trouble and self._child.poll() is not None:
            self.trouble = f"it ended: {_ended(self._child.returncode)}{self._last_words()}"

    def _hear(self, control: socket.socket) -> None:
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_MAX, 1, flags)
        if not message:
            return  # it is ending; its exit code says more
        with os.fdopen(fds[0] if fds else os.open(os.devnull, os.O_RDONLY), "rb") as said:
            said.seek(0)
            told = json.loads(said.read())
        if "error" in told:
            self.fail(told["error"])
            return
        self.threads = told["threads"]
        self.stamps = reports.stamps(told["stamps"])
        self.ready = True

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f" ({lines[-1][:200]})" if lines else ""
        return ""

    def wake(self) -> bool:
        """Let it go on if somebody has stopped it; whether that was so."""
        found = proc.stat(self._child.pid) if self._child is not None and self._child.returncode is None else None
        if found is None or found.state not in "Tt":
            return False
        self._signal(signal.SIGCONT)
        return True

    def stale(self) -> bool:
        """Whether a file that its preloaded modules came from has changed since."""
        return any(fresh.stamp(path) != stamp for path, stamp in self.stamps.items())

    # Any thread

    def fork(self, request: Mapping[str, Any], fds: Sequence[int]) -> Born:
        """Have a worker forked.

        Raises:
            NoWorker: Refused, or the nursery cannot be reached.
        """
        with self._lock:
            if not self.ready or self.trouble or self._control is None:
                raise NoWorker(errno.EAGAIN, self.trouble or "the nursery is starting")
            try:
                self._control.settimeout(ANSWER_S)
                socket.send_fds(self._control, [pickle.dumps(request)], list(fds))
                answer, handed, _, _ = socket.recv_fds(self._control, MESSAGE_MAX, 1, socket.MSG_CMSG_CLOEXEC)
            except (ConnectionError, TimeoutError) as error:
                self.fail(f"it does not answer: {error.strerror or error}")
                raise NoWorker(errno.EAGAIN, self.trouble) from error
            except OSError as error:
                # Nothing was sent: for want of memory or descriptors, or because the slot is being thrown away.
                raise ForkRefused(error.errno, error.strerror) from error
            if not answer:
                self.fail("it has ended")
                raise NoWorker(errno.EAGAIN, self.trouble)
            try:
                told = json.loads(answer)
            except ValueError as error:
                self.fail(f"it cannot be understood: {error}")
                raise NoWorker(errno.EAGAIN, self.trouble) from error
            if "error" in told:
                raise ForkRefused(told["errno"], told["error"])
            if not handed:
                # This process had no descriptor left to receive it with: the worker cannot be watched.
                family.send(told["pid"], told["started"], signal.SIGKILL)
                raise ForkRefused(errno.EMFILE, "no descriptor is left")
            self.workers += 1
            return Born(told["pid"], told["started"], handed[0])

    def fail(self, why: str) -> None:
        """Give it up: whatever it has forked ends with it."""
        self.trouble = self.trouble or why
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def retire(self) -> bool:
        """Let it end what is below it and go, which it does when its socket closes; False: busy, to be tried again."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self.wake()  # or it would not see that
            self.trouble = self.trouble or "not needed any more"
            self._retired_s = self._retired_s or time.monotonic()
            if self._control is not None:
                self._control.close()
                self._control = None
        finally:
            self._lock.release()
        return True

    def ended(self) -> bool:
        """Whether its process has ended, and its children have become battd's."""
        return self._child is None or self._child.poll() is not None

    def gone(self) -> bool:
        """After `retire`: whether its process has ended; its descriptors are then closed."""
        if not self.ended():
            self.wake()
            if time.monotonic() - self._retired_s > LEAVE_S:
                self.fail("it does not leave")
            return False
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
        with suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()
        return True


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
