"""What is given up when memory or threads run short while attempts run: idle workers first, then an attempt.

Suspending an attempt would free neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from batt_supervisor.core.admission import Hold
from batt_supervisor.core.levels import THRASH, scaled
from batt_supervisor.core.model import Outcome
from batt_supervisor.core.world import Held, Policy, Renew, Running, SlotPhase, Stop, World

MEMORY_SHORT: Final = 0.5
"""The part of the reserve of memory that has to be free; below it something is given up. Tasks fill the rest in less
than a second, and a kill by the kernel is worse than an eviction."""

THREADS_SHORT: Final = 0.25
"""The same of threads: a pool that opens takes some at once, and gives them back; refused ones kill nobody."""

PAUSE_S: Final = 0.3
"""How long what was given up may take to show in a reading."""

EVICTIONS_MAX: Final = 3
"""How often a task may be stopped to save the rest; after that others are."""


def relief(world: World, policy: Policy, renewed: Collection[int]) -> Iterator[Renew | Stop | Held]:
    """One step at a time, while too little is free. Nothing where all is well.

    Idle workers go also for a line that is held while nothing runs: no attempt will end and leave it room, and what
    they have gathered since they were started may be all that it lacks.

    Args:
        renewed: Slots whose worker is being replaced as it is.
    """
    if world.now.mono_s - world.relieved_s < PAUSE_S or any(_going(one) for one in world.running):
        return
    short = _short(world, policy)
    if short or (world.held_since and all(one.slot_id is None for one in world.running)):
        # What they have gathered is not known, and with the time it would take to go from one to the next the machine
        # may be gone.
        worn = [one for one in world.slots if one.phase is SlotPhase.IDLE and one.served and one.id not in renewed]
        reason = short or "a task is held for want of room"
        yield from (Renew(one.id, one.room, f"{reason}; idle workers go first", relief=True) for one in worn)
        if worn:
            yield from _meanwhile(world, reason)
            return
    found = victim(world, threads=short.startswith("threads")) if short else None
    if found is not None:
        yield Stop(found.claim, found.slot_id, Outcome.EVICTED, f"stopped to save the rest: {short}")
        yield from _meanwhile(world, short)


def _meanwhile(world: World, reason: str) -> Iterator[Held]:
    """What is given up is not there yet, so nothing starts now."""
    hold = Hold("machine", 1, f"waits for what is being given up: {reason}")
    yield from (Held(run_id, hold) for run_id, heads in world.heads.items() if heads)


def _short(world: World, policy: Policy) -> str:
    """What is nearly used up, in figures; empty where enough is free."""
    free, reserve = world.free.space, scaled(policy.reserve, world.free.total)
    if free.memory_bytes < reserve.memory_bytes * MEMORY_SHORT:
        return f"memory is short, {free.memory_bytes >> 20} MiB free ({world.free.memory_limit})"
    if free.threads < reserve.threads * THREADS_SHORT:
        return f"threads are short, {free.threads} free ({world.free.threads_limit})"
    thrash = world.pressure.memory_full or 0.0
    if thrash >= THRASH[0] and free.memory_bytes < reserve.memory_bytes:
        return f"memory is short, every task waited for it for {thrash:g} % of the last 10 s"
    return ""


def _going(attempt: Running) -> bool:
    """Whether an attempt is about to give back what it has."""
    return attempt.ending and attempt.called_s is not None


def victim(world: World, *, threads: bool) -> Running | None:
    """The attempt to be stopped: the one that gives back most for each second of work that is lost.

    Never the oldest that runs, of ours and of this user's other supervisors: so there is always one that goes on. And
    none that was stopped `EVICTIONS_MAX` times before.
    """
    going = [one for one in world.running if one.ending or one.returned_s is not None]
    called = [one for one in world.running if one.called_s is not None and one.slot_id is not None and one not in going]
    if not called:
        return None
    oldest = min(called, key=lambda one: one.sent_s)
    spared = oldest if oldest.sent_s <= world.others.oldest_s else None
    able = [one for one in called if one is not spared and one.evicted < EVICTIONS_MAX and one.sample is not None]

    def given_back(one: Running) -> float:
        assert one.sample is not None
        amount = one.sample.threads if threads else one.sample.memory_bytes
        return amount / (1.0 + world.now.mono_s - one.sent_s)

    return max(able, key=given_back, default=None)
