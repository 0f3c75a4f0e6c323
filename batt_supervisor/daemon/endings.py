"""Tells an attempt's outcome from what its slot saw of its end, and from why it was stopped, if it was."""

from __future__ import annotations

from dataclasses import replace

from batt_supervisor.core.limits import at_wall_limit, killed_for_memory, threads_refused
from batt_supervisor.core.model import Ending, Limits, Outcome, TaskError
from batt_supervisor.core.world import Stop
from batt_supervisor.daemon.attempt import Attempt
from batt_supervisor.pool.protocol import Exit
from worker.report import signal_name


def ending_of(seen: Exit, attempt: Attempt, *, called: bool, wall_s: float, memory_free: str) -> Ending:
    """The attempt's true story.

    Args:
        called: Whether its function had been called.
        wall_s: Seconds since that call, or since it was sent.
        memory_free: What is free of memory now, in words.
    """
    ending = _ending(seen, attempt, called=called, wall_s=wall_s, memory_free=memory_free)
    if attempt.sample is None:
        return ending
    memory, threads = attempt.peak
    return replace(
        ending,
        # The worker knows its own peak exactly, the samples and the kill that of its whole tree.
        peak_memory_bytes=max(ending.peak_memory_bytes or 0, memory) or None,
        peak_threads=max(ending.peak_threads or 0, threads) or None,
    )


def _ending(seen: Exit, attempt: Attempt, *, called: bool, wall_s: float, memory_free: str) -> Ending:
    limits = attempt.work.limits
    if seen.report is not None:
        return _pressed(_reported(seen.report), seen, limits)
    if attempt.stop is not None:
        return _stopped(seen, attempt.stop, attempt, wall_s)
    if seen.together:
        return _lost_together(attempt, wall_s)
    if seen.failed:
        return Ending(Outcome.CRASHED, seen.failed, wall_s=wall_s)
    if seen.exit_code is None or not (called or seen.begun):
        when = "while it ran" if called else "before the function was called"
        return Ending(Outcome.LOST, seen.broken or f"its worker went away {when}", wall_s=wall_s)
    when = "" if called else " while its function was looked for"
    if seen.exit_code >= 0:
        reason = f"its process left with exit code {seen.exit_code}{when}"
        return Ending(Outcome.CRASHED, reason, wall_s=wall_s, exit_code=seen.exit_code)
    name = signal_name(-seen.exit_code)
    reason = f"its process was killed by {name}{when}"
    if name == "SIGKILL":
        killed = _pressed(Ending(Outcome.CRASHED, wall_s=wall_s, signal=name), seen, limits)
        if killed.outcome is not Outcome.CRASHED:
            return killed
        held = f"{attempt.sample.memory_bytes >> 20} MiB held by it, " if attempt.sample else ""
        reason = f"its process was killed by SIGKILL, sender unknown{when}; memory then: {held}{memory_free}"
    return Ending(Outcome.CRASHED, reason, wall_s=wall_s, signal=name)


def _stopped(seen: Exit, stop: Stop, attempt: Attempt, wall_s: float) -> Ending:
    outcome, said = stop.outcome, f"{seen.cpu_s:.1f} s of CPU used" if seen.cpu_s is not None else ""
    if outcome is Outcome.TIMEOUT:
        outcome, said = at_wall_limit(wall_s, seen.cpu_s, seen.waited_s, attempt.head.tries)
    return Ending(
        outcome,
        "; ".join(filter(None, (stop.reason, said))),
        wall_s=wall_s,
        cpu_s=seen.cpu_s,
        peak_memory_bytes=seen.peak_memory_bytes,
        peak_threads=seen.peak_threads,
    )


def _lost_together(attempt: Attempt, wall_s: float) -> Ending:
    if attempt.head.tries.suspect:
        reason = "it took the nursery that its worker was forked from with it, and was the only one there"
        return Ending(Outcome.CRASHED, reason, wall_s=wall_s)
    reason = "the nursery that its worker was forked from ended, and everything in it"
    return Ending(Outcome.LOST, reason, wall_s=wall_s, together=True)


def _pressed(ending: Ending, seen: Exit, limits: Limits) -> Ending:
    """The same end, if it was a bad one, by what the kernel says it did to the attempt's processes meanwhile."""
    if ending.outcome is Outcome.OK:
        return ending
    told = f"; it ended with {ending.reason}" if ending.reason else ""
    if seen.pressed.oom_kills:
        if limits.memory_limit_bytes is not None and seen.pressed.memory_hits:
            reason = killed_for_memory(limits.memory_limit_bytes) + told
            return replace(ending, outcome=Outcome.MEMORY_LIMIT, reason=reason)
        reason = f"the kernel killed one of its processes because there was no memory left{told}"
        return replace(ending, outcome=Outcome.OUT_OF_MEMORY, reason=reason)
    if ending.outcome is Outcome.OUT_OF_THREADS and seen.pressed.threads_refused and limits.thread_limit is not None:
        reason = threads_refused(limits.thread_limit) + told
        return replace(ending, outcome=Outcome.THREAD_LIMIT, reason=reason)
    return ending


def _reported(report: dict[str, object]) -> Ending:
    """A worker's own report; see `worker.report` for its keys."""
    given: dict[str, object] = {key: report[key] for key in _KEYS if report.get(key) is not None}
    if "file" in given:
        given["value_file"] = given.pop("file")
    if "error" in given:
        given["error"] = TaskError(**given["error"])  # type: ignore[arg-type]
    return Ending(outcome=Outcome(str(report["outcome"])), **given)  # type: ignore[arg-type]


_KEYS = ("reason", "value", "file", "error", "wall_s", "cpu_s", "peak_memory_bytes", "exit_code", "signal", "own_limit")
