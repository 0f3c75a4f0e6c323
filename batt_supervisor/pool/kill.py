"""Ends a process with everything below it.

Stopped first, so that nothing forks while the tree is walked; descendants before the worker, so that what escaped its
parent is still found below its subreaper. The walk is repeated until it finds nothing new.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from batt_supervisor.pool import proc

ROUNDS = 100
"""A fork bomb is stopped faster than it forks, but no loop here is unbounded."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree had used when it was ended.

    Attributes:
        cpu_s: CPU seconds of all its processes, from their start.
        peak_memory_bytes: Sum of each process's largest resident set.
    """

    cpu_s: float
    peak_memory_bytes: int
    processes: int


def end_tree(root: int) -> Usage:
    """Kill a process and all its descendants with SIGKILL; what they had used until then."""
    _signal(root, signal.SIGSTOP)
    seen: set[int] = set()
    for _ in range(ROUNDS):
        fresh = [pid for pid in proc.descendants(root) if pid not in seen]
        if not fresh:
            break
        for pid in fresh:
            _signal(pid, signal.SIGSTOP)
        seen.update(fresh)
    usage = _usage([root, *seen])
    for pid in seen:
        _signal(pid, signal.SIGKILL)
    _signal(root, signal.SIGKILL)
    return usage


def end_strays(known: Iterable[int]) -> int:
    """Kill and reap children of this process that are none of its workers; how many there were.

    battd is a subreaper, so what a dead worker leaves behind becomes its child.
    """
    workers = set(known)
    ended = 0
    for pid in proc.children(os.getpid()):
        if pid in workers:
            continue
        ended += 1
        found = proc.stat(pid)
        if found is not None and found.state != "Z":
            end_tree(pid)
        try:
            os.waitpid(pid, os.WNOHANG)  # a later round reaps what has not ended yet
        except ChildProcessError:
            continue
    return ended


def end_if_same(pid: int, started: int) -> bool:
    """Kill the tree of a process known from another life of battd, unless its pid belongs to another process by now."""
    found = proc.stat(pid)
    if found is None or found.started != started:
        return False
    end_tree(pid)
    return True


def _usage(pids: Iterable[int]) -> Usage:
    cpu_s, peak, count = 0.0, 0, 0
    for pid in pids:
        found = proc.stat(pid)
        if found is not None:
            cpu_s += found.cpu_s
            peak += proc.peak_memory_bytes(pid) or 0
            count += 1
    return Usage(cpu_s, peak, count)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or set-uid by now; the caller sees survivors in the next round
