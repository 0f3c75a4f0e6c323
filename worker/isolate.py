"""Puts a worker back in order after an attempt, so that the next one finds it as the first did."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import sys
import threading
from typing import Any

# As plain numbers and through `_signal`, whose functions `signal` wraps: making an enum member of each number and
# handler would take longer than all the rest of a restore.
_SIGNALS = tuple(
    int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGHUP")
)


class Baseline:
    """The state of the process before an attempt."""

    def __init__(self) -> None:
        self._cwd = os.getcwd()
        self._environ = os.environ
        self._variables: Any = dict(_encoded(os.environ))
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._recursion = sys.getrecursionlimit()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._path = list(sys.path)
        self._handlers: dict[int, Any] = {number: _signal.getsignal(number) for number in _SIGNALS}
        self._threads = set(threading.enumerate())

    def restore(self) -> str | None:
        """Undo what the attempt changed; what cannot be undone, as the reason for recycling the worker."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            if _signal.getsignal(number) is not handler and handler is not None:
                _signal.signal(number, handler)
        sys.setrecursionlimit(self._recursion)
        sys.path[:] = self._path
        os.umask(self._umask)
        os.environ = self._environ  # noqa: B003 - the very object that os.getenv and subprocess know, put back
        if _encoded(os.environ) != self._variables:
            os.environ.clear()
            for name, value in self._variables.items():
                os.environb[name] = value
        for stream in {sys.stdout, sys.stderr, *self._streams[1:]}:
            _flush(stream)
        sys.stdin, sys.stdout, sys.stderr = self._streams
        try:
            os.chdir(self._cwd)
        except OSError as error:
            return f"its directory cannot be entered again: {error}"
        left = [thread.name for thread in threading.enumerate() if thread not in self._threads]
        if left:
            return f"left {len(left)} threads running: {', '.join(left[:3])}"
        return None


def _encoded(environ: Any) -> Any:
    """What os.environ holds, without decoding it: this is compared after every attempt."""
    return environ._data


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):
        # The task closed or replaced it; what it had not flushed was its own to lose.
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
