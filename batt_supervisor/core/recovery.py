"""What becomes of the attempts that an earlier battd left behind."""

from __future__ import annotations

from dataclasses import dataclass

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Ending, Limits, LiveAttempt, Outcome
from batt_supervisor.core.retry import Verdict, judge


@dataclass(frozen=True, slots=True)
class Recovered:
    """One attempt to be written off, and what happens to its task."""

    attempt: LiveAttempt
    ending: Ending
    verdict: Verdict


def recover(attempt: LiveAttempt, limits: Limits) -> Recovered:
    """Write off an attempt whose battd is gone: `lost`, uncharged; `cancelled` where somebody had asked for that."""
    if attempt.state is State.STOPPING:
        ending = Ending(Outcome.CANCELLED, "was being stopped when battd went away")
    else:
        ending = Ending(Outcome.LOST, "battd went away while it ran")
    return Recovered(attempt, ending, judge(ending.outcome, attempt.tries, limits, attempt.claim.task_id))
