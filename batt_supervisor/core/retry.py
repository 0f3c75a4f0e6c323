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


def judge(outcome: Outcome, tries: Tries, limits: Limits, seed: int) -> Verdict:
    """Decide after an attempt whether the task has ended or goes again.

    Args:
        outcome: How the attempt ended.
        tries: What the task had behind it before this attempt.
        limits: Of its stage.
        seed: Makes the backoff's jitter repeatable; the task's id will do.
    """
    if outcome is Outcome.OK:
        return Verdict(Event.SUCCEED, tries)
    if outcome is Outcome.CANCELLED:
        return Verdict(Event.CANCEL, tries)
    if outcome in RESOURCE:
        tries = replace(tries, resource=tries.resource + 1)
        if tries.resource > RESOURCE_TRIES:
            return Verdict(Event.FAIL, tries, reason=f"gave up after {tries.resource} attempts with a growing need")
        return Verdict(Event.LATER, tries, _backoff(limits.retry_delay_s, tries.resource, seed))
    if outcome in CHARGED:
        tries = replace(tries, charged=tries.charged + 1)
        if tries.charged >= limits.max_attempts:
            return Verdict(Event.FAIL, tries)
        return Verdict(Event.LATER, tries, _backoff(limits.retry_delay_s, tries.charged, seed))
    tries = replace(tries, uncharged=tries.uncharged + 1)
    if tries.uncharged > UNCHARGED_CAP:
        return Verdict(Event.FAIL, tries, reason=f"gave up: lost {tries.uncharged} times")
    return Verdict(Event.AGAIN, tries)


def need_of(base: Space, tries: Tries, total: Space) -> Space:
    """The need of the next attempt: doubled for each one that ran out, clamped to what the machine has."""
    factor = 2**tries.resource
    return Space(min(base.memory_bytes * factor, total.memory_bytes), min(base.threads * factor, total.threads))


def runs_alone(tries: Tries) -> bool:
    """Whether the next attempt is the last of its resource budget and so gets the machine to itself."""
    return tries.resource >= RESOURCE_TRIES


def _backoff(first_s: float, number: int, seed: int) -> float:
    """Exponential with jitter in its upper half: `first_s`, doubled each time up to `DELAY_MAX_S`."""
    ceiling = min(first_s * 2.0 ** (number - 1), max(first_s, DELAY_MAX_S))
    return ceiling * (0.5 + 0.5 * random.Random(seed * 1009 + number).random())
