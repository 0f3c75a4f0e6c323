"""Puts a worker back in order after an attempt, so that the next one finds it as the first did."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
    signal.SIGHUP,
)


class Baseline:
    """The state of the process before an attempt."""

    def __init__(self) -> None:
        self._cwd = os.getcwd()
        self._environ = dict(os.environ)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._recursion = sys.getrecursionlimit()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._path = list(sys.path)
        self._handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
        self._threads = set(threading.enumerate())

    def restore(self) -> str | None:
        """Undo what the attempt changed; what cannot be undone, as the reason for recycling the worker."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        sys.setrecursionlimit(self._recursion)
        sys.path[:] = self._path
        os.umask(self._umask)
        if dict(os.environ) != self._environ:
            os.environ.clear()
            os.environ.update(self._environ)
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        sys.stdin, sys.stdout, sys.stderr = self._streams
        for stream in self._streams[1:]:
            _flush(stream)
        try:
            os.chdir(self._cwd)
        except OSError as error:
            return f"its directory cannot be entered again: {error}"
        left = [thread.name for thread in threading.enumerate() if thread not in self._threads]
        if left:
            return f"left {len(left)} threads running: {', '.join(left[:3])}"
        return None


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
        children = _children()
        if not children:
            break
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
