"""Puts a worker back in order after an attempt, so that the next one finds it as the first did."""

from __future__ import annotations

import _locale
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
import time
import warnings
from time import monotonic, sleep
from typing import Any

from worker import boot, family, interpreter
from worker.meter import high_fd

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

DESCRIPTORS_SPARE = 8
"""How many descriptors attempts may leave open before their worker is given up. A module may rightly keep a few for
good, and closing a descriptor under its owner is worse than any leak: the number is soon another file's."""

CHILDREN_S = 2.0
"""How long children that were killed are waited for: one in the kernel may take its time, and its worker then goes."""


class _Kept:
    """A standard stream's descriptor, and a copy of it in case a task closes or replaces it."""

    def __init__(self, fd: int) -> None:
        self._copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, high_fd())
        self._identity = self._look(fd)

    def let_go(self) -> None:
        if self._look(self._copy) == self._identity:
            os.close(self._copy)

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

    It is taken anew when an attempt has imported modules: what those set is the room's, and has to be there for the
    next attempt, which does not import them again.

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
        self._settings = interpreter.Settings()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._handlers: dict[int, Any] = {number: _signal.getsignal(number) for number in _SIGNALS}
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._outputs = {fd: _Kept(fd) for fd in (0, 1, 2)}
        self._limits = {limit: resource.getrlimit(limit) for limit in _LIMITS}
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._cores = os.sched_getaffinity(0)
        self._locale = _locale.setlocale(_locale.LC_ALL, None)
        self._warnings: Any = warnings.filters
        self._filters = list(warnings.filters)
        self._descriptor = _lowest_free()
        self._ids = _ids()
        self._threads = set(threading.enumerate())
        self._thread_count = _thread._count()

    def renewed(self) -> Baseline:
        """One of the present state, in its place."""
        for kept in self._outputs.values():
            kept.let_go()
        return Baseline(self._cwd)

    def keep_outputs(self) -> None:
        """Standard output and error are other files from now on."""
        for fd in (1, 2):
            self._outputs[fd].let_go()
            self._outputs[fd] = _Kept(fd)

    def restore(self, *, keep_threads: bool = False) -> str | None:
        """Undo what the attempt changed; what cannot be undone, as the reason for recycling the worker.

        Args:
            keep_threads: Threads that it left running are no such reason.
        """
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in self._handlers.items():
            if _signal.getsignal(number) is not handler and handler is not None:
                _signal.signal(number, handler)
        _signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._settings.put_back()
        os.umask(self._umask)
        os.environ = self._environ  # noqa: B003 - the very object that os.getenv and subprocess know, put back
        if _encoded(os.environ) != self._variables:
            os.environ.clear()
            for name, value in self._variables.items():
                os.environb[name] = value
            time.tzset()
        for stream in (sys.stdout, sys.stderr, *self._streams[1:]):
            _flush(stream)
        for fd, kept in self._outputs.items():
            kept.put_back(fd)
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if warnings.filters is not self._warnings or warnings.filters != self._filters:
            warnings.filters = self._warnings
            self._warnings[:] = self._filters
            warnings._filters_mutated()  # type: ignore[attr-defined]  # what warnings itself does
        if _locale.setlocale(_locale.LC_ALL, None) != self._locale:
            _locale.setlocale(_locale.LC_ALL, self._locale)
        boot.arm_stacks()
        boot.keep_family()
        return (
            self._limits_back()
            or self._scheduling_back()
            or self._cwd_back()
            or self._identity_left()
            or self._descriptors_left()
            or (None if keep_threads else self._threads_left())
        )

    def _identity_left(self) -> str | None:
        if _ids() != self._ids:
            return "it is another user, or has another root directory, by now"
        if any(stream is None or stream.closed for stream in self._streams[1:]):
            return "its standard output was closed"
        name = self._settings.replaced()
        return f"{name} was replaced" if name else None

    def _scheduling_back(self) -> str | None:
        try:
            if os.getpriority(os.PRIO_PROCESS, 0) != self._nice:
                os.setpriority(os.PRIO_PROCESS, 0, self._nice)
            if os.sched_getaffinity(0) != self._cores:
                os.sched_setaffinity(0, self._cores)
        except OSError as error:
            return f"its priority or cores cannot be put back: {error}"
        return None

    def _descriptors_left(self) -> str | None:
        # The kernel gives the lowest number that is free, so this tells of a leak without listing anything.
        left = _lowest_free() - self._descriptor
        return f"left {left} descriptors open" if left > DESCRIPTORS_SPARE else None

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


def _ids() -> tuple[Any, ...]:
    root = os.stat("/")
    return os.getresuid(), os.getresgid(), root.st_dev, root.st_ino


def _lowest_free() -> int:
    """The number that the next descriptor would have; a very high one where there is none."""
    try:
        fd = os.dup(0)
    except OSError:
        return 1 << 20
    os.close(fd)
    return fd


def _encoded(environ: Any) -> Any:
    """What os.environ holds, without decoding it: this is compared after every attempt."""
    return environ._data


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:
        # The task closed it, or made something of its own of it; what was not flushed was its own to lose.
        return


def end_children() -> str | None:
    """Kill and reap whatever the attempt left behind below this process; what would not end, as a reason to recycle.

    The worker is a subreaper, so processes that detached themselves are its children by now. A process that is killed
    hands its own children up, so the round is repeated until nothing is left.
    """
    until = 0.0
    while True:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None  # the usual case, and much cheaper than looking into /proc
        children = family.children(os.getpid())
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):  # reaped by the task's own code in the meantime
                os.waitpid(pid, os.WNOHANG)
        until = until or monotonic() + CHILDREN_S
        if monotonic() > until:
            return f"{len(children)} of its children do not end"
        sleep(0.0002)
