"""The small process that workers are forked from: exec'ed by battd, one for each room that is in use.

It imports what every worker needs, and the modules that are to be preloaded, once; it stays single-threaded; it answers
a refused fork as it answers any other request; it is the subreaper of its workers, so what a dead worker leaves behind
becomes its child and is ended at once; and when battd's end of its socket closes, it ends everything below it and goes.

Run by path, `python -P .../worker/nursery.py ROOT CONTROL PARENT`, so that neither the run's directory nor its
environment decides which `worker` package and which pebble are used. CONTROL is a SOCK_SEQPACKET socket. The first
message on it is JSON, `Settings` of this module; then each message is a pickled request for a worker, with its
descriptors, and each is answered by JSON: `pid` and `started`, with a pidfd, or `errno` and `error`.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import traceback
from json import dumps, loads
from os import fork
from pickle import loads as unpickled
from time import monotonic, sleep
from typing import Any, NoReturn

MESSAGE_MAX = 65_536
FDS_MAX = 16
SWEEP_MS = 500
"""How often strays are looked for when nothing has happened: a worker may have given up adopting its own."""

HUNT_S = 2.0
"""For how long the nursery waits for what it has killed to be gone; a process in the kernel may take its time."""

LAST_S = 30.0
"""For how long it stays to end what battd has left, when that has gone; nobody else would."""

STATUS = struct.Struct("<iI")
"""What is written to a worker's exit pipe: its wait status, and how many processes it left that would not end."""

KEPT = 3
"""Descriptors of a request that are not the worker's pipes: its log, its board, the writing end of its exit pipe."""


class _Worker:
    """A worker that has not been reaped."""

    def __init__(self, pid: int, pidfd: int, exit_fd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.exit_fd = exit_fd


class Nursery:
    """Forks workers and sees them to their end.

    Args:
        control: The socket to battd.
        settings: As battd sent them: `cwd`, `python` (variables for Python that are put in force after the worker's own
            imports), `preload`, `spawn` (each worker is a fresh interpreter), `root`, `paths`, and what `boot` reads.
    """

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self._control = control
        self._settings = settings
        self._workers: dict[int, _Worker] = {}
        self._stuck: set[int] = set()  # strays that were killed, and waited for in vain
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serve until battd's end closes."""
        while True:
            ready = {fd for fd, _ in self._poll.poll(SWEEP_MS)}
            if self._control.fileno() in ready and not self._answer():
                return
            self._bury([one for one in self._workers.values() if one.pidfd in ready])

    # Births

    def _answer(self) -> bool:
        """Take one request; False when battd has gone."""
        try:
            message, fds, flags, _ = socket.recv_fds(self._control, MESSAGE_MAX, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return False
        if not message:
            return False
        pidfd = -1
        try:
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            told, pidfd = self._fork(message, fds)
        except OSError as error:
            # No process, no memory, no descriptor: battd holds, and asks again.
            told = {"errno": error.errno, "error": f"{error.strerror}"}
        finally:
            for fd in fds:
                if fd not in self._exit_fds():
                    os.close(fd)
        try:
            socket.send_fds(self._control, [dumps(told).encode()], [] if pidfd < 0 else [pidfd])
        except ConnectionError:
            return False
        return True

    def _exit_fds(self) -> set[int]:
        return {worker.exit_fd for worker in self._workers.values()}

    def _fork(self, message: bytes, fds: list[int]) -> tuple[dict[str, Any], int]:
        parent = os.getpid()  # the child would ask too late: this process may be killed now, and it be inherited
        pid = fork()
        if pid == 0:
            self._be_worker(message, fds, parent)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        worker = self._workers[pid] = _Worker(pid, pidfd, fds[2])
        self._poll.register(worker.pidfd, select.POLLIN)
        found = family.stat(pid)  # there, for it has not been waited for
        return {"pid": pid, "started": found.started if found else 0}, pidfd

    def _be_worker(self, message: bytes, fds: list[int], parent: int) -> NoReturn:
        """The child: leave everything of the nursery behind, and never come back."""
        code = 1
        try:
            self._control.close()
            for worker in self._workers.values():
                os.close(worker.pidfd)
                os.close(worker.exit_fd)
            os.close(fds[2])
            code = boot.begin(self._settings, unpickled(message), fds[:2] + fds[KEPT:], parent)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    # Deaths

    def _bury(self, dead: list[_Worker]) -> None:
        """Reap workers that have ended, end what they left, and only then tell battd."""
        ended = []
        for worker in dead:
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                ended.append((worker, status))
                self._poll.unregister(worker.pidfd)
                del self._workers[worker.pid]
        left = self._end_strays()
        for worker, status in ended:
            with contextlib.suppress(OSError):  # battd looks no more: it is leaving
                os.write(worker.exit_fd, STATUS.pack(status, left))
            os.close(worker.exit_fd)
            os.close(worker.pidfd)

    def _end_strays(self) -> int:
        """End children that are no workers: they belonged to a dead one; how many of them would not end."""
        until = monotonic() + HUNT_S
        while True:
            strays = [pid for pid in family.children(os.getpid()) if pid not in self._workers]
            self._stuck.intersection_update(strays)
            alive = [pid for pid in strays if not _reap(pid)]
            for pid in alive:
                family.end_tree(pid)
            alive = [pid for pid in alive if not _reap(pid) and pid not in self._stuck]
            if not alive:
                return 0
            if monotonic() > until:
                self._stuck.update(alive)  # those are not waited for again, or each death would take as long
                return len(alive)
            sleep(0.0005)

    def end_all(self) -> None:
        """battd has gone: nothing below this process may outlive it."""
        for pid in list(self._workers):
            family.end_tree(pid)
        for pid in list(self._workers):
            _reap(pid)
            del self._workers[pid]
        until = monotonic() + LAST_S
        while family.children(os.getpid()) and monotonic() < until:
            self._end_strays()
            sleep(0.0005)


def _reap(pid: int) -> bool:
    """Whether the child has ended; it is then gone for good."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _ready(settings: dict[str, Any]) -> dict[str, Any]:
    """Import what workers need and what is to be preloaded; what battd is told of that."""
    if list(sys.version_info[:2]) != settings["version"]:
        version = ".".join(map(str, sys.version_info[:2]))
        return {"error": f"{sys.executable} is Python {version}, battd runs Python {settings['version_text']}"}
    if settings["spawn"]:
        return {"ready": True, "stamps": {}, "threads": 1}
    boot.import_own(settings)
    boot.enter_room(settings)
    boot.preload(settings)
    from worker import fresh

    boot.after_preload()
    gc.collect()
    gc.freeze()  # a collection in a worker would touch, and so copy, every page
    return {"ready": True, "stamps": fresh.loaded, "threads": len(os.listdir("/proc/self/task"))}


def _tell(control: socket.socket, told: dict[str, Any]) -> None:
    """In a file: it may name thousands of modules."""
    fd = os.memfd_create("batt-ready")
    with os.fdopen(fd, "wb") as out:
        out.write(dumps(told).encode())
        out.flush()
        socket.send_fds(control, [b"ready"], [fd])


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    # While it imports it does not listen, and an import may never end: until then it dies with battd. Afterwards it
    # must not, for it has to end what is below it first.
    boot.die_with(int(sys.argv[3]))
    boot.adopt_orphans()
    try:
        first = control.recv(MESSAGE_MAX)
        if not first:
            return
        settings = loads(first)
        told = _ready(settings)
        boot.die_with(None)
        _tell(control, told)
        if "error" in told:
            return
        nursery = Nursery(control, settings)
        try:
            nursery.run()
        finally:
            nursery.end_all()
    except (ConnectionError, BrokenPipeError):
        return  # battd went before it had asked for anything


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    importlib.invalidate_caches()

from worker import boot, family  # noqa: E402 - found by ROOT only

if __name__ == "__main__":
    sys.path.remove(sys.argv[1])
    main()
