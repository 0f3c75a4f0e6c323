"""What becomes of a task when one of its attempts has ended."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from batt_supervisor.core.lifecycle import Event
from batt_supervisor.core.model import CHARGED, RESOURCE, Limits, Outcome, Space, Tries

RESOURCE_TRIES: Final = 3
"""Attempts that may fail for want of memory or threads, each with twice the need of the one before."""

UNCHARGED_CAP: Final = 10
"""Attempts that may be lost through no fault of the task, so that nothing loops for ever."""

LOST_DELAY_S: Final = 0.25
"""Backoff after the second attempt that was lost on its worker's or the disk's side, doubled each time: two minutes
until the cap. Whatever takes workers away, or lets no result be written, may do so ten times in a second."""

STARVED_TRIES: Final = 2
"""Attempts that may be starved of CPU before the next one gets the machine to itself."""

POISON_AFTER: Final = 3
"""Workers that a task may take down before its next attempt runs alone; one more, and it is given up."""

DELAY_MAX_S: Final = 300.0
"""Where doubling a backoff ends. A first one that is longer stays as it was declared."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to the task now.

    Attributes:
        event: The move in the lifecycle table.
        tries: The task's history with this attempt counted in.
        delay_s: For `Event.LATER`: seconds until the next attempt may start.
        reason: Added to the attempt's own when the task is given up for another cause than its outcome.
    """

    event: Event
    tries: Tries
    delay_s: float = 0.0
    reason: str = ""


def judge(
    outcome: Outcome, tries: Tries, limits: Limits, seed: int, *, together: bool = False, spaced: bool = False
) -> Verdict:
    """Decide after an attempt whether the task has ended or goes again.

    Args:
        outcome: How the attempt ended.
        tries: What the task had behind it before this attempt.
        limits: Of its stage.
        seed: Makes the backoff's jitter repeatable; the task's id will do.
        together: It was lost with others, any of which may have been the cause.
        spaced: It was lost on its worker's or the disk's side, where the cause may last. The next attempts are given
            time, all but the first of them. Not for a battd that was restarted: that is over.
    """
    if outcome is Outcome.LOST:
        tries = replace(tries, uncharged=tries.uncharged + 1, suspect=tries.suspect or together)
        return _lost(tries, seed, spaced=spaced)
    if tries.suspect:
        tries = replace(tries, suspect=False)
    if outcome is Outcome.OK:
        return Verdict(Event.SUCCEED, tries)
    if outcome is Outcome.CANCELLED:
        return Verdict(Event.CANCEL, tries)
    if outcome is Outcome.STARVED:
        tries = replace(tries, starved=tries.starved + 1)
        return Verdict(Event.LATER, tries, _backoff(limits.retry_delay_s, tries.starved, seed))
    if outcome is Outcome.EVICTED:
        # It is held until there is room again; whoever was evicted often is spared (`core.relief`), so this ends.
        return Verdict(Event.AGAIN, replace(tries, evicted=tries.evicted + 1))
    if outcome in RESOURCE:
        tries = replace(tries, resource=tries.resource + 1)
        if tries.resource > RESOURCE_TRIES:
            return Verdict(Event.FAIL, tries, reason=f"gave up after {tries.resource} attempts with a growing need")
        return Verdict(Event.LATER, tries, _backoff(limits.retry_delay_s, tries.resource, seed))
    assert outcome in CHARGED, f"{outcome} has no price"
    crashed = outcome is Outcome.CRASHED
    tries = replace(tries, charged=tries.charged + 1, crashes=tries.crashes + crashed)
    if tries.charged >= limits.max_attempts:
        return Verdict(Event.FAIL, tries)
    if crashed and tries.crashes > POISON_AFTER:
        reason = f"poison: took its worker down {tries.crashes} times, the last time while it ran alone"
        return Verdict(Event.FAIL, tries, reason=reason)
    return Verdict(Event.LATER, tries, _backoff(limits.retry_delay_s, tries.charged, seed))


def _lost(tries: Tries, seed: int, *, spaced: bool) -> Verdict:
    if tries.uncharged > UNCHARGED_CAP:
        return Verdict(Event.FAIL, tries, reason=f"gave up: lost {tries.uncharged} times")
    if spaced and tries.uncharged > 1:
        return Verdict(Event.LATER, tries, _backoff(LOST_DELAY_S, tries.uncharged - 1, seed))
    return Verdict(Event.AGAIN, tries)


def need_of(base: Space, resource: int, total: Space) -> Space:
    """The need of the next attempt: doubled for each of `resource` that ran out, clamped to what the machine has."""
    factor = 2**resource
    return Space(min(base.memory_bytes * factor, total.memory_bytes), min(base.threads * factor, total.threads))


def runs_alone(tries: Tries) -> bool:
    """Whether the next attempt gets the machine to itself.

    So does the last one of the resource budget, one after others that were starved, and the last one of a task that
    takes its workers down.
    """
    return tries.resource >= RESOURCE_TRIES or tries.starved >= STARVED_TRIES or tries.crashes >= POISON_AFTER


def _backoff(first_s: float, number: int, seed: int) -> float:
    """Exponential with jitter in its upper half: `first_s`, doubled each time up to `DELAY_MAX_S`."""
    ceiling = min(first_s * 2.0 ** (number - 1), max(first_s, DELAY_MAX_S))
    return ceiling * (0.5 + 0.5 * random.Random(seed * 1009 + number).random())
