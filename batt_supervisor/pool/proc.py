"""What /proc tells of a process. A process that is gone, or a zombie, is an ordinary answer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """Some fields of /proc/PID/stat.

    Attributes:
        state: One letter; Z is a zombie.
        cpu_s: User and system seconds, those of waited-for children included.
        started: Clock ticks since boot; with the pid it names one process.
    """

    state: str
    parent: int
    cpu_s: float
    started: int


def stat(pid: int) -> Stat | None:
    """The process's stat; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    cpu_ticks = sum(int(fields[place]) for place in (11, 12, 13, 14))
    return Stat(fields[0], int(fields[1]), cpu_ticks * TICK_S, int(fields[19]))


def children(pid: int) -> list[int]:
    """The process's children, those of all its threads; empty when it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split())
        except OSError:
            continue  # that thread has just ended
    return found


def descendants(pid: int) -> list[int]:
    """Everything below a process, parents before their children."""
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children(queue.pop(0))
        found += below
        queue += below
    return found


def peak_memory_bytes(pid: int) -> int | None:
    """Largest resident set of one process since that was last reset; None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


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
