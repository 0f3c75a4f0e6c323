"""Has a running attempt gone over one of its limits, and which? Pure decisions over what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from batt_supervisor.core.model import Limits, Outcome, Tries
from batt_supervisor.core.retry import STARVED_TRIES

ASK_S: Final = 0.1
"""How long before the end of an attempt's time the stacks of its threads are asked for."""

ASK_FROM_S: Final = 2 * ASK_S
"""A shorter limit leaves no time for that: half of all ordinary attempts would be asked."""

STALL_SHARE: Final = 0.01
"""The part of one CPU that a tree may use and still be called stalled: pools that wait for ever look around now and
then (`multiprocessing.Pool`'s threads ten times a second)."""

STARVED_SHARE: Final = 0.5
"""The part of its wall time for which a starved attempt's tree had no CPU, and its busiest thread waited for one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What an attempt's process tree used when it was last looked at.

    Attributes:
        cpu_s: CPU seconds since the function was called.
        memory_bytes: What it holds now; exact when above the attempt's limit.
        threads: Threads and processes it has now.
        output_bytes: What it has written to its log.
        beats: A number that changes with every heartbeat.
        threads_refused: How often the kernel has refused it a thread or process for its limit.
        memory_kills: How many of its processes the kernel has killed for its limit.
    """

    cpu_s: float
    memory_bytes: int
    threads: int
    output_bytes: int
    beats: int
    threads_refused: int = 0
    memory_kills: int = 0


@dataclass(frozen=True, slots=True)
class Quiet:
    """Since when an attempt has shown no sign of life.

    Attributes:
        since_s: Monotonic.
        cpu_s: CPU seconds it had used then.
        beats: Its heartbeats then.
    """

    since_s: float
    cpu_s: float = 0.0
    beats: int = 0


def listen(quiet: Quiet, sample: Sample, stall_timeout_s: float, now_s: float) -> Quiet:
    """Since when the attempt has been quiet, now that it was looked at once more."""
    if sample.beats != quiet.beats or sample.cpu_s - quiet.cpu_s > STALL_SHARE * stall_timeout_s:
        return Quiet(now_s, sample.cpu_s, sample.beats)
    return quiet


def breach(limits: Limits, sample: Sample) -> tuple[Outcome, str] | None:
    """The first limit that an attempt is over, with the figure; None while it keeps them all."""
    if limits.memory_limit_bytes is not None and sample.memory_bytes > limits.memory_limit_bytes:
        held, most = sample.memory_bytes / 2**20, limits.memory_limit_bytes / 2**20
        return Outcome.MEMORY_LIMIT, f"its processes held {held:.0f} MiB of memory, the limit is {most:.0f} MiB"
    if limits.memory_limit_bytes is not None and sample.memory_kills:
        return Outcome.MEMORY_LIMIT, killed_for_memory(limits.memory_limit_bytes)
    if limits.thread_limit is not None:
        if sample.threads > limits.thread_limit:
            had = f"it had {sample.threads} threads and processes"
            return Outcome.THREAD_LIMIT, f"{had}, the limit is {limits.thread_limit}"
        if sample.threads_refused:
            return Outcome.THREAD_LIMIT, threads_refused(limits.thread_limit)
    if limits.output_limit_bytes is not None and sample.output_bytes > limits.output_limit_bytes:
        wrote, most = sample.output_bytes / 2**20, limits.output_limit_bytes / 2**20
        return Outcome.OUTPUT_LIMIT, f"it wrote {wrote:.1f} MiB of output, the limit is {most:.1f} MiB"
    if limits.cpu_limit_s is not None and sample.cpu_s > limits.cpu_limit_s:
        return Outcome.CPU_LIMIT, f"it used {sample.cpu_s:.2f} s of CPU, the limit is {limits.cpu_limit_s:g} s"
    return None


def killed_for_memory(limit_bytes: int) -> str:
    """Why an attempt is over its memory limit, when the kernel kept it below."""
    return f"the kernel killed one of its processes at the limit of {limit_bytes / 2**20:.0f} MiB of memory"


def threads_refused(limit: int) -> str:
    """Why an attempt is over its thread limit, when the kernel kept it below."""
    return f"it asked for more threads and processes than the limit of {limit}"


def at_wall_limit(wall_s: float, cpu_s: float | None, waited_s: float | None, tries: Tries) -> tuple[Outcome, str]:
    """What to call an attempt that had reached its wall limit, and what is to be said of it beside that.

    Starved: its tree got CPU for less than half of the time, and its busiest thread was ready to run and waited for
    more than half of it. Waiting alone proves nothing: beside overload a loop waits most of the time, and gets on.

    Args:
        wall_s: Seconds from its call until it was ended.
        cpu_s: CPU seconds of its tree; None where nobody could read them.
        waited_s: Of its busiest thread; likewise.
        tries: What its task has behind it.
    """
    if cpu_s is None:
        return Outcome.TIMEOUT, ""
    said = f"{cpu_s:.1f} s of CPU used"
    if waited_s is None or cpu_s >= STARVED_SHARE * wall_s or waited_s <= STARVED_SHARE * wall_s:
        return Outcome.TIMEOUT, said
    said = f"{said}, {waited_s:.1f} s waited for a CPU"
    if tries.starved >= STARVED_TRIES:
        return Outcome.TIMEOUT, f"{said}; it had been starved {tries.starved} times before, and then ran alone"
    return Outcome.STARVED, said
