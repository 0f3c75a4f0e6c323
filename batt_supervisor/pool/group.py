"""Control groups: the processes of each slot are in one of their own, which ends and limits them and tells their fate.

A process leaves its parent, its session and its environment as it likes, but not its group. battd does without where no
group can be had: trees are then found by walking them, and the kernel limits and counts nothing for us.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from batt_supervisor.held import Held
from batt_supervisor.pool import cgroupfs, hierarchy
from batt_supervisor.pool.hierarchy import Ground, Kind, Place

__all__ = ["QUIET", "Events", "Group", "Groups"]

UNKNOWN: Final = -1
"""A limit that could not be written: it is none that is ever asked for, so it is written again the next time."""

ROUNDS: Final = 200
"""Tries to remove what an earlier battd has left, a millisecond apart."""

LABELS: Final = 20
"""Names tried for a group, when an earlier one of its name cannot be removed yet."""


@dataclass(frozen=True, slots=True)
class Events:
    """What the kernel has done to a group's processes since the group was made, or between two such readings.

    Attributes:
        oom_kills: Processes killed for want of memory, whoever's limit was reached.
        memory_hits: Times the group's own memory limit was reached. On v2 (`oom`) nothing was left to reclaim, and the
            allocation was about to fail. On v1 (`memory.failcnt`) page cache may have been reclaimed and all gone well:
            there it is evidence only together with `oom_kills` or a failure.
        threads_refused: Forks and threads refused. On v1, and on v2 before Linux 6.11, by the group's limit or by that
            of any group around it; since then, on v2, by its own.
    """

    oom_kills: int = 0
    memory_hits: int = 0
    threads_refused: int = 0

    def __sub__(self, before: Events) -> Events:
        """What happened since `before`; never below nothing, as the counts go with the group."""
        return Events(
            max(0, self.oom_kills - before.oom_kills),
            max(0, self.memory_hits - before.memory_hits),
            max(0, self.threads_refused - before.threads_refused),
        )


QUIET: Final = Events()


class Group:
    """One group, in every hierarchy that is used; groups that its processes have made in it are part of it.

    Args:
        kind: Version of the hierarchies: their files differ.
        places: Where it is.
    """

    def __init__(self, kind: Kind, places: Sequence[Place]) -> None:
        self._kind = kind
        self._places = tuple(places)
        self._folders = [place.folder for place in places]
        self._limits: dict[str, int | None] = {"memory": None, "pids": None}
        self._last = QUIET
        self._files_read: dict[str, Held] = {}
        self._refused_by_us = 0
        self._busy = threading.Lock()  # a thread that ends a worker may meet the one that sends the next request

    @property
    def entrances(self) -> list[str]:
        """Files that a new process writes "0" into, before it does anything else, to be in the group."""
        return [f"{folder}/cgroup.procs" for folder in self._folders]

    def members(self) -> list[int]:
        """Its processes; none where that cannot be read."""
        try:
            return cgroupfs.members(self._folders)
        except OSError:
            return []

    def kill(self) -> int:
        """End all its processes with SIGKILL, and wait a moment for them to be gone; how many were found."""
        with self._busy:
            before = self._refused()
            found = cgroupfs.end(self._folders)
            # What was refused to those that were being ended is no event of the task's.
            self._refused_by_us += max(0, self._refused() - before)
            return found

    # Limits

    def limit(self, memory_bytes: int | None, threads: int | None) -> bool:
        """Limit memory (bytes) and processes and threads (number) of the whole group; None is no limit.

        On v2 a limit below what is in use has the kernel kill at once; on v1 it is refused.

        Returns:
            Whether what was asked for is in force.
        """
        wanted = {"memory": memory_bytes, "pids": threads}
        with self._busy:
            # A write that failed left nothing known about that limit.
            self._limits.update({name: self._set(name, n) for name, n in wanted.items() if self._limits[name] != n})
            return self._limits == wanted

    def _set(self, controller: str, limit: int | None) -> int | None:
        """Write one limit; what is in force then."""
        folder = self._folder(controller)
        if folder is None:
            return None
        (first, text), *others = self._files(controller, limit)
        try:
            cgroupfs.write(f"{folder}/{first}", text)
        except OSError:
            return UNKNOWN
        for name, text in others:
            with suppress(OSError):  # there is no swap, or the kernel is an older one
                cgroupfs.write(f"{folder}/{name}", text)
        return limit

    def _files(self, controller: str, limit: int | None) -> list[tuple[str, str]]:
        number = "max" if limit is None else str(limit)
        if controller == "pids":
            return [("pids.max", number)]
        if self._kind == "v1":
            return [("memory.limit_in_bytes", "-1" if limit is None else number)]
        # A task that swaps when over its limit slows everybody down; half a tree that is left is of no use to anybody.
        swap, whole = ("max", "0") if limit is None else ("0", "1")
        return [("memory.max", number), ("memory.swap.max", swap), ("memory.oom.group", whole)]

    def _folder(self, controller: str) -> str | None:
        return next((place.folder for place in self._places if controller in place.controllers), None)

    # What became of it

    def events(self) -> Events:
        """What the kernel has done to its processes since it was made; what cannot be counted is 0."""
        memory = self._folder("memory")
        try:
            if memory is None:
                kills = hits = 0
            elif self._kind == "v1":
                kills = self._count(f"{memory}/memory.oom_control", "oom_kill")
                hits = self._count(f"{memory}/memory.failcnt")
            else:
                kills = self._count(f"{memory}/memory.events", "oom_kill")
                hits = self._count(f"{memory}/memory.events", "oom")
        except OSError:
            # No descriptor to be had: the next reading tells.
            kills, hits = self._last.oom_kills, self._last.memory_hits
        self._last = Events(kills, hits, max(0, self._refused() - self._refused_by_us))
        return self._last

    def _refused(self) -> int:
        """Forks and threads refused, those included that were refused while the group was being ended."""
        folder = self._folder("pids")
        try:
            return self._count(f"{folder}/pids.events", "max") if folder is not None else 0
        except OSError:
            return self._last.threads_refused + self._refused_by_us

    def _count(self, path: str, name: str = "") -> int:
        """A count out of lines of a name and a number, or a file that is one number; 0 where there is none.

        Asked for every attempt, so the file stays open.
        """
        held = self._files_read.get(path) or self._files_read.setdefault(path, Held(path))
        try:
            text = held.read()
        except OSError as error:
            if error.errno in cgroupfs.GONE:
                return 0
            raise
        return cgroupfs.counted(text.decode(), name)

    def peak_threads(self) -> int | None:
        """Most processes and threads it ever had at once; None where the kernel does not say (before Linux 6.1)."""
        folder = self._folder("pids")
        with suppress(OSError, ValueError):
            return int(cgroupfs.read(f"{folder}/pids.peak")) if folder is not None else None
        return None

    def remove(self) -> bool:
        """Remove the group; False while processes hold it, which on older kernels those not yet reaped do too."""
        for held in self._files_read.values():
            held.close()
        return all(cgroupfs.discard(folder) for folder in self._folders)


class Groups:
    """The control groups of one battd, or none where the machine gives none.

    Attributes:
        kind: Version of the hierarchies that are used.
        why: What could not be had, as a sentence: everything where the kind is `none`, or else a part.
    """

    def __init__(self, ground: Ground, name: str) -> None:
        self.kind: Kind = ground.kind
        self.why = ground.why
        self._places = ground.places
        self._name = name

    @classmethod
    def find(cls, root: str, name: str) -> Groups:
        """Make the parent group of this battd, or say why there is none; never raises. On v2 the calling process moves.

        Args:
            root: `auto` for what is mounted, `off`, or a folder in which hierarchies are mounted.
            name: Of the parent group on v1, the same for every battd of a state directory, so that the next one finds
                it. On v2 the group is the unit's own, and all that is in it is ours.
        """
        return cls(hierarchy.find(root, name), name)

    def describe(self) -> str:
        """What is used and where, for people."""
        if self.kind == "none":
            return f"no control groups: {self.why}"
        used: dict[str, list[str]] = {}
        for place in self._places:
            used.setdefault(place.path, []).extend(place.controllers)
        text = ", ".join(f"{_listed(names) or 'no controllers'} at {path}" for path, names in used.items())
        return f"cgroup {self.kind}: {text}" + (f" ({self.why})" if self.why else "")

    def clear(self) -> int:
        """End what an earlier battd of this name has left in groups, and remove those; how many processes it was."""
        left: list[str] = []
        for place in self._places:
            with suppress(OSError):
                left += cgroupfs.inside(place.folder)
            if self.kind == "v1":
                # That battd may have been started elsewhere: by another login, in another unit.
                left += [folder for folder in cgroupfs.named(place.mount, self._name) if folder != place.folder]
        ended = cgroupfs.end(left)
        for _ in range(ROUNDS):
            left = [folder for folder in left if not cgroupfs.discard(folder)]
            if not left:
                break
            time.sleep(cgroupfs.PAUSE_S)  # the last of them are still on their way out
        return ended

    def make(self, label: str) -> Group | None:
        """A new group, its name beginning with `label`; None when none can be made now."""
        for number in range(LABELS if self._places else 0):
            group = [place.child(f"{label}.{number}" if number else label) for place in self._places]
            made: list[str] = []
            try:
                for place in group:
                    os.mkdir(place.folder)
                    made.append(place.folder)
            except OSError as error:
                for folder in made:
                    cgroupfs.discard(folder)
                if isinstance(error, FileExistsError):
                    continue
                return None
            if self.kind == "v1":
                _keep_from_swapping(group)
            return Group(self.kind, group)
        return None

    def close(self) -> None:
        """Remove all groups that hold no process, the parent too. On v2 battd stays in the group beside it."""
        for place in self._places:
            cgroupfs.discard(place.folder)


def _keep_from_swapping(places: Sequence[Place]) -> None:
    """What `memory.swap.max` is on v2: a v1 group over its limit is killed, not swapped out, at swappiness 0."""
    for place in places:
        if "memory" in place.controllers:
            with suppress(OSError):
                cgroupfs.write(f"{place.folder}/memory.swappiness", "0")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
