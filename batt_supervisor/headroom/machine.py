"""One look at all that may run out: by limits of the host, of every control group around us, the user, each process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

from batt_supervisor.core.headroom import Pressure, Reading
from batt_supervisor.headroom.cgroup import Group
from batt_supervisor.headroom.files import Reader, told
from batt_supervisor.headroom.host import Host
from batt_supervisor.headroom.limits import EachProcess, Kernel
from batt_supervisor.headroom.pressure import worst
from batt_supervisor.headroom.user import UserThreads
from batt_supervisor.headroom.where import Level, enclosing
from batt_supervisor.held import Held

__all__ = ["Headroom", "MachineHeadroom"]

SLOW_S: Final = 0.5
"""Seconds that limits, quotas and pressure serve. What is *used* of the limits is read each time."""

FIND_S: Final = 10.0
"""Seconds after which groups are found anew though nothing tells that they changed: a controller was switched on."""


class Headroom(Protocol):
    """Whatever says what is free; `testing.FixedHeadroom` is the other implementation."""

    def read(self, now_s: float) -> Reading:
        """What there is and what is used of it, from a look that is at most a moment old."""

    def close(self) -> None:
        """Give back what is held open."""


class MachineHeadroom:
    """What the kernel says. Decides nothing.

    A reading never fails: a machine on which nothing can be opened any more is just where one is needed. What was read
    last serves then, and `Reading.missing` tells.

    The groups around this process are looked up at the first reading, when it was moved (/proc/self/cgroup is compared
    every `SLOW_S`), and every `FIND_S`; `find_anew` has it done at the next reading. While a process is in a group, no
    group around it can be removed.

    Args:
        keep_s: How long a reading serves; promises cover what has been started since.
        proc: Where /proc is mounted.
        cgroup_root: "auto" for the control groups that are mounted, "off" for none, or a folder with hierarchies.
    """

    def __init__(self, *, keep_s: float = 0.05, proc: Path = Path("/proc"), cgroup_root: str = "auto") -> None:
        self._keep_s, self._proc, self._root = keep_s, proc, cgroup_root
        self._host, self._kernel = Host(proc), Kernel(proc)
        self._user, self._each = UserThreads(proc), EachProcess()
        self._beside: tuple[Reader, ...] = (self._host, self._kernel, self._user, self._each)
        self._groups: dict[Level, Group] = {}
        self._own, self._own_then = Held(proc / "self/cgroup"), b""
        self._unseen: tuple[str, ...] = ()
        self._cpus = 0.0
        self._last: tuple[float, Reading] | None = None
        self._refreshed_s: float | None = None
        self._found_s: float | None = None

    @property
    def descriptors(self) -> int:
        """Files that are held open."""
        return self._own.is_open + sum(part.descriptors for part in self._parts())

    def read(self, now_s: float) -> Reading:
        """The reading of now, or the last one if it is younger than `keep_s`.

        Args:
            now_s: Monotonic.
        """
        if _is_over(self._last and self._last[0], now_s, self._keep_s):
            self._last = (now_s, self._look(now_s))
        assert self._last is not None
        return self._last[1]

    def find_anew(self) -> None:
        """Have the next reading look up where this process is: it was moved, or limits were set around it."""
        self._last = self._refreshed_s = self._found_s = None

    def close(self) -> None:
        self._own.close()
        for part in self._parts():
            part.close()

    def _parts(self) -> tuple[Reader, ...]:
        return (*self._beside, *self._groups.values())

    def _look(self, now_s: float) -> Reading:
        if _is_over(self._refreshed_s, now_s, SLOW_S):
            self._refresh(now_s)
        memory = self._host.look()
        groups = self._groups.values()
        limits = [memory.limit, *self._kernel.limits(self._host.threads)]
        for group in groups:
            limits += group.limits()
        user = self._user.limit(now_s, self._host.threads)
        if user is not None:
            limits.append(user)
        limits += self._each.limits()
        stalls = worst([self._host.stalls, *(group.stalls for group in groups)])
        pressure = Pressure(
            memory_full=stalls.get("memory_full"),
            memory_some=stalls.get("memory_some"),
            cpu_some=stalls.get("cpu_some"),
            load=self._host.load,
            cpus=self._cpus,
            swap_total_bytes=memory.swap_total,
            swap_free_bytes=memory.swap_free,
        )
        complaints = [word for part in self._parts() for word in part.complaints]
        return Reading(tuple(limits), pressure, (*self._unseen, *complaints))

    def _refresh(self, now_s: float) -> None:
        """What need not be read each time."""
        self._refreshed_s = now_s
        if _is_over(self._found_s, now_s, FIND_S) or self._was_moved():
            self._find(now_s)
        for part in self._parts():
            part.refresh()
        quotas = [group.cpus for group in self._groups.values() if group.cpus is not None]
        self._cpus = min((float(len(os.sched_getaffinity(0))), *quotas))

    def _was_moved(self) -> bool:
        try:
            return self._root != "off" and self._own.read() != self._own_then
        except OSError:
            return False  # found anew after `FIND_S`

    def _find(self, now_s: float) -> None:
        try:
            self._own_then = b"" if self._root == "off" else self._own.read()
            levels = enclosing(self._root, self._proc)
        except (OSError, ValueError) as error:
            # Those found before serve; looked up again as soon as limits are read again.
            self._unseen = (f"control groups cannot be looked up: {told(self._own.path, error)}",)
            return
        self._found_s, self._unseen = now_s, tuple(levels.missing)
        before, self._groups = self._groups, {}
        for level in levels.found:
            group = before.pop(level) if level in before else Group(level)
            group.find_anew()
            self._groups[level] = group
        for group in before.values():
            group.close()


def _is_over(then_s: float | None, now_s: float, wait_s: float) -> bool:
    """A clock that goes back makes nothing last for ever."""
    return then_s is None or not 0 <= now_s - then_s < wait_s
