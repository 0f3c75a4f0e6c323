"""What the machine has, as plain values: every limit that was read, how hard it presses, what others have promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from batt_supervisor.core.admission import Free
from batt_supervisor.core.model import NOTHING, Space


class Resource(StrEnum):
    """What tasks share and may run out of."""

    MEMORY = "memory"  # in bytes
    THREADS = "threads"  # and processes, which the kernel counts in one total


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit that something of ours is under, as it was read.

    Attributes:
        name: What people call it: "memory of the host", "pids.max of /batt.slice", "RLIMIT_NPROC of uid 1000".
        source: The file or call that it was read from.
        limit: What may be used at most; bytes, or threads and processes.
        used: What is used of it.
        each: It is every single process's own, not shared by them: nothing is used up by others.
    """

    resource: Resource
    name: str
    source: str
    limit: int
    used: int
    each: bool = False

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)

    def told(self) -> str:
        """For people: the limit and how much of it is used."""
        if self.resource is Resource.THREADS:
            return f"{self.name}: {self.used} of {self.limit}"
        return f"{self.name}: {self.used >> 20} of {self.limit >> 20} MiB"


@dataclass(frozen=True, slots=True)
class Pressure:
    """How hard the machine presses; None where the kernel does not say.

    Attributes:
        memory_full: Percent of the last 10 s in which all tasks waited for memory (PSI, full avg10); the worst of the
            host and every enclosing cgroup.
        memory_some: Percent of the last 10 s in which some task did.
        cpu_some: Percent of the last 10 s in which some task waited for a CPU.
        load: Runnable processes, averaged over 1 minute.
        cpus: CPUs this process may use: the least of affinity and every enclosing cgroup's quota.
        swap_total_bytes: Swap space there is.
        swap_free_bytes: What is free of it.
    """

    memory_full: float | None = None
    memory_some: float | None = None
    cpu_some: float | None = None
    load: float | None = None
    cpus: float | None = None
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0


CALM: Final = Pressure()
"""Nothing presses, as far as anybody can say."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at everything; at least one limit of each resource.

    Attributes:
        limits: In the order in which they are shown: the host's first, then cgroups from the outermost, then the
            user's, then those of each process.
        missing: What could not be read, and why, for people.
    """

    limits: Sequence[Limit]
    pressure: Pressure = CALM
    missing: Sequence[str] = ()

    def binding(self, resource: Resource) -> Limit:
        """The one that leaves least of it."""
        return min((one for one in self.limits if one.resource is resource and not one.each), key=lambda one: one.free)

    def free(self) -> Free:
        """What admission goes by."""
        memory, threads = self.binding(Resource.MEMORY), self.binding(Resource.THREADS)
        total = {resource: min(one.limit for one in self.limits if one.resource is resource) for resource in Resource}
        return Free(
            space=Space(memory.free, threads.free),
            memory_limit=memory.told(),
            threads_limit=threads.told(),
            total=Space(total[Resource.MEMORY], total[Resource.THREADS]),
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """What one supervisor has in the ledger.

    Attributes:
        promised: Needs of its attempts, less what these have taken already: what a reading does not show yet.
        appetite: The most it may come to promise: all its slots at once.
        running: Its attempts that run.
        oldest_s: When the oldest of those was started, monotonic (the clock is the host's); infinity for none.
    """

    promised: Space = NOTHING
    appetite: Space = NOTHING
    running: int = 0
    oldest_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Holder:
    """Another supervisor of this user on this host.

    Attributes:
        pid: Its process, as it was in the namespace that it wrote in.
        name: Where it keeps its state, for people.
    """

    pid: int
    name: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Others:
    """All of them, as the ledger has it."""

    holders: Sequence[Holder] = ()

    @property
    def promised(self) -> Space:
        return sum((one.entry.promised for one in self.holders), NOTHING)

    @property
    def appetite(self) -> Space:
        return sum((one.entry.appetite for one in self.holders), NOTHING)

    @property
    def running(self) -> int:
        return sum(one.entry.running for one in self.holders)

    @property
    def oldest_s(self) -> float:
        return min((one.entry.oldest_s for one in self.holders), default=float("inf"))


NOBODY: Final = Others()
"""There is no other."""
