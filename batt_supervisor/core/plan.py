"""One look at the world, and what to do about it. Pure: the daemon's loop calls it once a tick and carries it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from batt_supervisor.core.limits import breach
from batt_supervisor.core.model import Outcome
from batt_supervisor.core.relief import relief
from batt_supervisor.core.start import Starter
from batt_supervisor.core.world import (
    WRITING_MAX_S,
    AskStacks,
    CloseRun,
    Closing,
    Command,
    Held,
    Policy,
    Renew,
    Running,
    SlotPhase,
    Stop,
    World,
)


def plan(world: World, policy: Policy) -> list[Command]:
    """What to do now, in the order in which it is to be carried out."""
    commands: list[Command] = []
    commands += _close_runs(world)
    closing = {run.id: run.closing for run in world.runs if run.closing}
    closing |= {command.run_id: command.why for command in commands if isinstance(command, CloseRun)}
    stops = list(_stops(world, closing))
    commands += stops
    if not world.accepting:
        commands += [Held(run.id, world.closed) for run in world.runs]
    else:
        renewals = list(_renewals(world, policy))
        ending = any(isinstance(one, Stop) and one.slot_id is not None for one in stops)
        given_up = [] if ending else list(relief(world, policy, {renewal.slot_id for renewal in renewals}))
        commands += [*renewals, *given_up]
        renewed = {one.slot_id for one in commands if isinstance(one, Renew)}
        if not given_up:
            commands += Starter(world, policy, closing, renewed).commands()
    return commands


def wake_at(world: World) -> float:
    """The monotonic time of the next deadline the plan has to keep, or infinity."""
    started = (attempt for attempt in world.running if attempt.slot_id is not None and not attempt.ending)
    ends = [min(_look_at(attempt, world.now.mono_s), attempt.stall_s, attempt.ask_s) for attempt in started]
    # A deadline that has passed was acted on by this world's plan; its closing may still be on its way to the disk.
    ends += [
        world.now.mono_s + (run.deadline_at_ms - world.now.wall_ms) / 1000
        for run in world.runs
        if run.deadline_at_ms is not None and run.closing is None and run.deadline_at_ms > world.now.wall_ms
    ]
    return min(ends, default=float("inf"))


def _look_at(attempt: Running, now_s: float) -> float:
    """When an attempt may be at its deadline: one that was not called yet may be called any moment from now."""
    if attempt.called_s is not None:
        return attempt.deadline_s
    return min(attempt.deadline_s, max(now_s, attempt.sent_s) + attempt.limits.timeout_s)


def _close_runs(world: World) -> Iterator[CloseRun]:
    for run in world.runs:
        if run.closing is None and run.deadline_at_ms is not None and run.deadline_at_ms <= world.now.wall_ms:
            yield CloseRun(run.id, Closing.DEADLINE)


def _stops(world: World, closing: Mapping[int, Closing]) -> Iterator[Stop | AskStacks]:
    for attempt in world.running:
        if attempt.ending:
            continue
        if attempt.stop_asked or attempt.run_id in closing:
            reason = "the run's deadline passed" if closing.get(attempt.run_id) is Closing.DEADLINE else "cancelled"
            yield Stop(attempt.claim, attempt.slot_id, Outcome.CANCELLED, reason)
        elif attempt.slot_id is not None:
            over = _over(attempt, world.now.mono_s)
            if over is not None:
                yield Stop(attempt.claim, attempt.slot_id, *over)
            elif world.now.mono_s >= attempt.ask_s:
                yield AskStacks(attempt.claim, attempt.slot_id)


def _over(attempt: Running, now_s: float) -> tuple[Outcome, str] | None:
    """Which of its limits an attempt has reached, and what is to be said of it."""
    limits = attempt.limits
    if attempt.called_s is None:
        if now_s < attempt.deadline_s:
            return None
        reason = f"its worker did not call the function within boot_timeout ({attempt.boot_timeout_s:g} s)"
        return Outcome.LOST, reason
    if attempt.returned_s is not None:
        # None of its limits is for that: it has done its work.
        if now_s < attempt.deadline_s:
            return None
        return Outcome.LOST, f"its result could not be written within {WRITING_MAX_S:g} s"
    if attempt.sample is not None and (found := breach(limits, attempt.sample)) is not None:
        return found
    if now_s >= attempt.deadline_s:
        return Outcome.TIMEOUT, f"wall limit of {limits.timeout_s:g} s reached"
    if now_s >= attempt.stall_s:
        return Outcome.STALLED, f"no CPU used and no heartbeat for {limits.stall_timeout_s:g} s"
    return None


def _renewals(world: World, policy: Policy) -> Iterator[Renew]:
    for slot in world.slots:
        if slot.phase is not SlotPhase.IDLE:
            continue
        if slot.spent:
            yield Renew(slot.id, slot.room, slot.spent)
        elif policy.max_tasks and slot.served >= policy.max_tasks:
            yield Renew(slot.id, slot.room, f"max_tasks ({policy.max_tasks}) reached")
        elif policy.max_age_s and slot.served and slot.age_s >= policy.max_age_s:
            yield Renew(slot.id, slot.room, f"max_worker_age ({policy.max_age_s:g} s) reached")
