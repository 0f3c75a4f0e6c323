"""May one more attempt start now? A pure function of what is needed, free, promised and kept back."""

from __future__ import annotations

from dataclasses import dataclass

from batt_supervisor.core.model import NOTHING, Space


@dataclass(frozen=True, slots=True)
class Free:
    """One reading of what the machine has left.

    Attributes:
        space: What is free, the least over all limits that were read.
        memory_limit: Name of the limit that binds memory, for people ("memory of the host").
        threads_limit: Name of the limit that binds threads ("kernel.pid_max: 1503 of 32768").
        total: What the whole machine has, for refusing what can never fit.
    """

    space: Space
    memory_limit: str
    threads_limit: str
    total: Space


@dataclass(frozen=True, slots=True)
class Start:
    """Room for one more attempt."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Not now, and why.

    Attributes:
        short: What is short: "memory", "threads", or another thing's own word.
        missing: By how much, in that thing's own unit.
        reason: One sentence that names the binding limit.
    """

    short: str
    missing: int
    reason: str


def admit(need: Space, *, free: Free, promised: Space, reserve: Space, alone: bool) -> Start | Hold:
    """Say whether one more attempt may start now; a Hold tells what is short, in that thing's own unit.

    Args:
        need: What the attempt is expected to take.
        free: The last reading.
        promised: Needs of attempts started since, which have not taken them yet.
        reserve: What stays free whatever waits.
        alone: Nothing else of ours runs. Then the reserve of memory may be used, so that there is always progress;
            never more than is free.
    """
    if alone:
        reserve, promised = Space(0, reserve.threads), NOTHING
    left = free.space - promised - reserve
    if need.threads > left.threads:
        missing = need.threads - left.threads
        return Hold(
            "threads",
            missing,
            f"{missing} threads short: {need.threads} needed, {free.space.threads} free by {free.threads_limit}, "
            f"{promised.threads} promised, {reserve.threads} in reserve",
        )
    if need.memory_bytes > left.memory_bytes:
        missing = need.memory_bytes - left.memory_bytes
        return Hold(
            "memory",
            missing,
            f"{_size(missing)} of memory short: {_size(need.memory_bytes)} needed, {_size(free.space.memory_bytes)} "
            f"free by {free.memory_limit}, {_size(promised.memory_bytes)} promised, "
            f"{_size(reserve.memory_bytes)} in reserve",
        )
    return Start()


def _size(count: int) -> str:
    """Bytes in whole MiB; what is less than one in a smaller unit, for it is not nothing."""
    if count >= 2**20 or not count:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / 2**10:.0f} KiB" if count >= 2**10 else f"{count} B"
