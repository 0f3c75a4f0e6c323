"""Puts a worker back in order after an attempt, so that the next one finds it as the first did."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import contextlib
import faulthandler
import fcntl
import os
import resource
import signal
import sys
import threading
from typing import Any

from worker.meter import HIGH_FD

# As plain numbers and through `_signal`, whose functions `signal` wraps: making an enum member of each number and
# handler would take longer than all the rest of a restore. The two that are left out cannot be handled.
_SIGNALS = tuple(number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP))

_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CORE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_STACK,
)


class _Kept:
    """A standard stream's descriptor, and a copy of it in case a task closes or replaces it."""

    def __init__(self, fd: int) -> None:
        self._copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
        self._identity = self._look(fd)

    def put_back(self, fd: int) -> None:
        if self._look(fd) != self._identity and self._look(self._copy) == self._identity:
            os.dup2(self._copy, fd)

    def _look(self, fd: int) -> tuple[int, int] | None:
        try:
            found = os.fstat(fd)
        except OSError:
            return None
        return found.st_dev, found.st_ino


class Baseline:
    """The state of the process before an attempt.

    Args:
        cwd: The directory it is to be in, which need not be there any more; None for the present one.
    """

    def __init__(self, cwd: str | None = None) -> None:
        self._cwd = cwd or ""
        if cwd is None:
            with contextlib.suppress(FileNotFoundError):
                self._cwd = os.getcwd()
        self._environ = os.environ
        self._variables: Any = dict(_encoded(os.environ))
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._recursion = sys.getrecursionlimit()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._path = list(sys.path)
        self._handlers: dict[int, Any] = {number: _signal.getsignal(number) for number in _SIGNALS}
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._outputs = {fd: _Kept(fd) for fd in (0, 1, 2)}
        self._limits = {limit: resource.getrlimit(limit) for limit in _LIMITS}
        self._threads = set(threading.enumerate())
        self._thread_count = _thread._count()

    def restore(self) -> str | None:
        """Undo what the attempt changed; what cannot be undone, as the reason for recycling the worker."""
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in self._handlers.items():
            if _signal.getsignal(number) is not handler and handler is not None:
                _signal.signal(number, handler)
        _signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        sys.setrecursionlimit(self._recursion)
        sys.path[:] = self._path
        os.umask(self._umask)
        os.environ = self._environ  # noqa: B003 - the very object that os.getenv and subprocess know, put back
        if _encoded(os.environ) != self._variables:
            os.environ.clear()
            for name, value in self._variables.items():
                os.environb[name] = value
        for stream in (sys.stdout, sys.stderr, *self._streams[1:]):
            _flush(stream)
        for fd, kept in self._outputs.items():
            kept.put_back(fd)
        sys.stdin, sys.stdout, sys.stderr = self._streams
        return self._limits_back() or self._cwd_back() or self._threads_left()

    def _limits_back(self) -> str | None:
        for limit, before in self._limits.items():
            if resource.getrlimit(limit) != before:
                try:
                    resource.setrlimit(limit, before)
                except (OSError, ValueError) as error:
                    return f"a resource limit cannot be put back: {error}"
        return None

    def _cwd_back(self) -> str | None:
        try:
            os.chdir(self._cwd)
        except OSError as error:
            return f"its directory cannot be entered again: {error}"
        return None

    def _threads_left(self) -> str | None:
        left = [thread.name for thread in threading.enumerate() if thread not in self._threads]
        count = max(len(left), _thread._count() - self._thread_count)
        if count > 0:
            return f"left {count} threads running{': ' if left else ''}{', '.join(left[:3])}"
        return None


def _encoded(environ: Any) -> Any:
    """What os.environ holds, without decoding it: this is compared after every attempt."""
    return environ._data


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:
        # The task closed it, or made something of its own of it; what was not flushed was its own to lose.
        return


def end_children() -> int:
    """Kill and reap whatever the attempt left behind below this process; how many.

    The worker is a subreaper, so processes that detached themselves are its children by now. A process that is killed
    hands its own children up, so the round is repeated until nothing is left.
    """
    ended = 0
    for _ in range(100):
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            break  # the usual case, and much cheaper than looking into /proc
        children = _children()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for pid in children:
            try:
                os.waitpid(pid, 0)
                ended += 1
            except ChildProcessError:
                continue  # reaped by the task's own code in the meantime
    return ended


def _children() -> list[int]:
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as listed:
                found += [int(pid) for pid in listed.read().split()]
        except OSError:
            continue  # that thread has just ended
    return found
