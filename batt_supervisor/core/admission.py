"""May one more attempt start now? A pure function of what is needed, free, promised and kept back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from batt_supervisor.core.limits import Sample
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
class Need:
    """What an attempt is expected to take.

    Attributes:
        known: The threads were declared or learned, or it has failed for want of them; else they are but a guess.
    """

    space: Space
    known: bool = True


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


PATIENCE_S: Final = 60.0
"""After so long room is made for a task that is held: the others leave free what it needs. For one that must run alone
they all wait. And where nothing runs, what was only learned no longer holds it."""

ASSUMED_S: Final = 1.0
"""For so long a need for memory that nobody declared, and that was not learned, holds a task though nothing runs."""


def least_alone(base: Space, *, assumed: Space, declared: Space, held_s: float) -> Space:
    """What of a need must be free even where nothing runs: what was declared; for a while what was learned, too.

    And for a moment what is merely assumed: on a small machine it would hold everything for ever. What was learned does
    not do that either: other arguments may take less, and the machine may have been larger then. What fails for want of
    it is given up after a few attempts.

    Args:
        base: What is expected.
        assumed: What is expected of tasks that nothing is known of.
        held_s: How long it has been held; negative infinity: not yet.
    """
    memory_bytes, threads = base.memory_bytes, base.threads
    if held_s >= (ASSUMED_S if memory_bytes == assumed.memory_bytes else PATIENCE_S):
        memory_bytes = declared.memory_bytes
    if held_s >= PATIENCE_S:
        threads = declared.threads
    return Space(memory_bytes, threads)


def clamped(need: Space, least: Space, free: Space) -> Space:
    """A need that is larger than what is free there, down to what it must be at least."""
    memory_bytes = min(need.memory_bytes, max(least.memory_bytes, free.memory_bytes))
    return Space(memory_bytes, min(need.threads, max(least.threads, free.threads)))


def outstanding(need: Space, sample: Sample | None) -> Space:
    """What of its need an attempt has not taken yet, so that no reading shows it.

    Args:
        sample: What it was last seen to use; None: not looked at yet, then it has its worker and nothing else.
    """
    memory_bytes, threads = (sample.memory_bytes, sample.threads) if sample is not None else (0, 1)
    return Space(max(0, need.memory_bytes - memory_bytes), max(0, need.threads - threads))


def admit(
    need: Need,
    *,
    free: Free,
    promised: Space,
    reserve: Space,
    alone: bool,
    others: Space = NOTHING,
    aside: Space = NOTHING,
) -> Start | Hold:
    """Say whether one more attempt may start now; a Hold tells what is short, in that thing's own unit.

    Args:
        need: What the attempt is expected to take.
        free: The last reading.
        promised: What attempts of ours have been promised and have not taken yet.
        reserve: What stays free whatever waits.
        alone: Nothing else runs, of ours or of this user's other supervisors. Then the reserve may be used and promises
            do not count, so that there is always progress; never more memory than is free. And a number of threads
            that is only guessed holds nobody: the worker is there, and may be all that the attempt needs.
        others: What other supervisors have promised.
        aside: What is set aside for a task that has waited long.
    """
    if alone:
        reserve = promised = others = NOTHING
    left = free.space - promised - others - aside - reserve
    wanted = need.space
    if wanted.threads > left.threads and (need.known or not alone):
        missing = wanted.threads - left.threads
        shown = _terms(str, promised.threads, others.threads, aside.threads, reserve.threads)
        reason = (
            f"{missing} threads short: {wanted.threads} needed, {free.space.threads} free by {free.threads_limit}, "
        )
        return Hold("threads", missing, reason + shown)
    if wanted.memory_bytes > left.memory_bytes:
        missing = wanted.memory_bytes - left.memory_bytes
        shown = _terms(_size, promised.memory_bytes, others.memory_bytes, aside.memory_bytes, reserve.memory_bytes)
        reason = (
            f"{_size(missing)} of memory short: {_size(wanted.memory_bytes)} needed, "
            f"{_size(free.space.memory_bytes)} free by {free.memory_limit}, "
        )
        return Hold("memory", missing, reason + shown)
    return Start()


def _terms(shown: Callable[[int], str], promised: int, others: int, aside: int, reserve: int) -> str:
    """What is taken off, for people; what others have and what is set aside only where there is such."""
    terms = [f"{shown(promised)} promised"]
    terms += [f"{shown(others)} promised by other supervisors"] if others else []
    terms += [f"{shown(aside)} set aside for a task that has waited long"] if aside else []
    return ", ".join([*terms, f"{shown(reserve)} in reserve"])


def _size(count: int) -> str:
    """Bytes in whole MiB; what is less than one in a smaller unit, for it is not nothing."""
    if count >= 2**20 or not count:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / 2**10:.0f} KiB" if count >= 2**10 else f"{count} B"
