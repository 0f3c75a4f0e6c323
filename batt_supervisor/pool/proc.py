"""What /proc tells of processes, beyond `worker.family`. A process that is gone, or a zombie, is an ordinary answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from worker.family import Stat, children, descendants, stat

__all__ = [
    "Stat",
    "children",
    "descendants",
    "handles",
    "holding",
    "memory_bytes",
    "peak_memory_bytes",
    "stat",
    "waited",
]

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _status(pid: int, name: str) -> str | None:
    """One line of /proc/PID/status, without its name."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in status.splitlines() if line.startswith(name + ":")), None)


def peak_memory_bytes(pid: int) -> int | None:
    """Largest resident set of one process since that was last reset; None when it is gone."""
    text = _status(pid, "VmHWM")
    return int(text.split()[0]) * 1024 if text else None


def resident_bytes(pid: int) -> int:
    """Resident set of one process; what it shares with others is counted whole."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def memory_bytes(pid: int) -> int:
    """Memory of one process, of what it shares with others its part only (PSS); far dearer than `resident_bytes`."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
    except OSError:
        return 0
    _, _, behind = rollup.partition(b"\nPss:")
    return int(behind.split(None, 1)[0]) * 1024 if behind else 0


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for a signal, which kills it otherwise."""
    text = _status(pid, "SigCgt")
    return text is not None and bool(int(text, 16) >> (number - 1) & 1)


def waited(pid: int) -> list[tuple[float, float]]:
    """For each thread, seconds on a CPU and seconds ready to run without one (/proc/PID/task/TID/schedstat)."""
    found = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    for thread in threads:
        try:
            ran, waits = Path(f"/proc/{pid}/task/{thread}/schedstat").read_bytes().split()[:2]
        except (OSError, ValueError):
            continue  # that thread has just ended, or the kernel keeps no such figures
        found.append((int(ran) / 1e9, int(waits) / 1e9))
    return found


def holding(variable: str, value: str) -> list[int]:
    """Every process that was started with this environment variable; those of other users cannot be read."""
    wanted = f"{variable}={value}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if wanted in environ.split(b"\0"):
                found.append(int(name))
    return found
