"""Processes below a process: how they are found, stopped and ended. A process that is gone is an ordinary answer.

A pid is never signalled on trust: it is compared with the start time that was read when it was found, through a pidfd,
so that a process which got the pid of one that has ended is left alone.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from time import monotonic

ROUNDS = 100
"""A fork bomb is stopped faster than it forks, but no loop here is unbounded."""

FREEZE_S = 0.3
"""For how long that goes on; what is not found by then is found when its parent is dead and it has come to another."""

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stat:
    """Some fields of /proc/PID/stat.

    Attributes:
        state: One letter; Z is a zombie.
        cpu_s: User and system seconds, those of waited-for children included.
        threads: Number of threads.
        started: Clock ticks since boot; with the pid it names one process.
    """

    state: str
    parent: int
    cpu_s: float
    threads: int
    started: int


def stat(pid: int) -> Stat | None:
    """The process's stat; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    cpu_ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return Stat(chr(fields[0][0]), int(fields[1]), cpu_ticks * TICK_S, int(fields[17]), int(fields[19]))


def children(pid: int) -> list[int]:
    """The process's children, those of all its threads; empty when it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as listed:
                found += map(int, listed.readall().split())
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


def send(pid: int, started: int, number: int) -> bool:
    """Signal the process that has this pid since `started`; whether it was still there."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:
        # No descriptor to be had. The start time alone leaves a moment in which the pid may change hands.
        return _send_plainly(pid, started, number)
    try:
        found = stat(pid)
        if found is None or found.started != started:
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False  # gone, or set-uid by now; the caller sees survivors in the next round
    finally:
        os.close(fd)


def _send_plainly(pid: int, started: int, number: int) -> bool:
    found = stat(pid)
    if found is None or found.started != started:
        return False
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def freeze(root: int) -> dict[int, int]:
    """Stop a process and everything below it, so that nothing forks while it is looked at and ended.

    The dead are left out: there may be thousands of them, which nobody has waited for.

    Returns:
        Start times by pid: the root first, then its descendants, each after its parent. Empty when the root is gone.
    """
    found = stat(root)
    if found is None:
        return {}
    frozen = {root: found.started}
    send(root, found.started, signal.SIGSTOP)
    dead: set[int] = set()
    until = monotonic() + FREEZE_S
    for _ in range(ROUNDS):
        fresh = [pid for pid in descendants(root) if pid not in frozen and pid not in dead]
        if not fresh or monotonic() > until:
            break
        for pid in fresh:
            seen = stat(pid)
            if seen is None or seen.state in "ZX":
                dead.add(pid)
            elif seen.parent in frozen:  # one outside of this family has got the pid of one that was listed
                frozen[pid] = seen.started
                send(pid, seen.started, signal.SIGSTOP)
    return frozen


def finish(frozen: dict[int, int]) -> None:
    """Kill what `freeze` has stopped: descendants before the root, below which they are found if one escapes."""
    for pid, started in reversed(frozen.items()):
        send(pid, started, signal.SIGKILL)


def end_tree(root: int) -> int:
    """Kill a process with everything below it; how many they were."""
    frozen = freeze(root)
    finish(frozen)
    return len(frozen)
