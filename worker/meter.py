"""What an attempt uses: CPU seconds, memory and waiting, read without opening anything in the usual case."""

from __future__ import annotations

import fcntl
import os
import resource
from time import process_time


def high_fd() -> int:
    """Own descriptors are kept from here on, out of the way of programs that count on low numbers."""
    return min(200, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class _Held:
    """A file of /proc/self that is kept open, and opened again when a task has closed or replaced the descriptor."""

    def __init__(self, path: str, flags: int) -> None:
        self._path, self._flags = path, flags
        self._fd = -1
        self._identity: tuple[int, int] | None = None

    def fd(self) -> int:
        """A descriptor that is this file, whatever happened in the meantime; raises OSError where it cannot be had."""
        try:
            found = os.fstat(self._fd)
            if (found.st_dev, found.st_ino) == self._identity:
                return self._fd
        except (OSError, OverflowError):
            pass  # never opened, or closed by a task
        low = os.open(self._path, self._flags | os.O_CLOEXEC)
        try:
            self._fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, high_fd())
        finally:
            os.close(low)
        found = os.fstat(self._fd)
        self._identity = (found.st_dev, found.st_ino)
        return self._fd


_clear_refs = _Held("/proc/self/clear_refs", os.O_WRONLY)
_status = _Held("/proc/self/status", os.O_RDONLY)
_schedstat = _Held("/proc/self/schedstat", os.O_RDONLY)


def cpu_s() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


def reset_peak() -> None:
    """Begin a new measurement of the largest resident set."""
    try:
        os.write(_clear_refs.fd(), b"5")
    except OSError:
        return  # not permitted here: the peak is then that of the worker's whole life


def memory_bytes() -> tuple[int, int]:
    """Largest resident set since `reset_peak`, and the anonymous memory that is resident now.

    Not ru_maxrss: that one starts with the parent's at exec.
    """
    try:
        text = os.pread(_status.fd(), 4096, 0)
    except OSError:
        return 0, 0
    return _field(text, b"VmHWM:"), _field(text, b"RssAnon:")


def _field(text: bytes, name: bytes) -> int:
    _, _, behind = text.partition(name)
    return int(behind.split(None, 1)[0]) * 1024 if behind else 0


def waited_s() -> float:
    """Seconds for which this process's main thread was ready to run and had no CPU (/proc/PID/schedstat, field 2)."""
    try:
        return int(os.pread(_schedstat.fd(), 128, 0).split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0  # a kernel without schedstats
