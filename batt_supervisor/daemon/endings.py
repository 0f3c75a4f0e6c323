"""Tells an attempt's outcome from what its slot saw of its end, and from why it was stopped, if it was."""

from __future__ import annotations

from batt_supervisor.core.model import Ending, Outcome, TaskError
from batt_supervisor.core.world import Stop
from batt_supervisor.pool.protocol import Exit
from worker.report import signal_name


def ending_of(seen: Exit, stop: Stop | None, *, called: bool, wall_s: float) -> Ending:
    """The attempt's true story.

    Args:
        stop: The order that ended it, if there was one.
        called: Whether its function had been called.
        wall_s: Seconds since that call, or since it was sent.
    """
    if seen.report is not None:
        return _reported(seen.report)
    if stop is not None:
        return Ending(
            stop.outcome,
            f"{stop.reason}; {seen.cpu_s:.1f} s of CPU used" if seen.cpu_s is not None else stop.reason,
            wall_s=wall_s,
            cpu_s=seen.cpu_s,
            peak_memory_bytes=seen.peak_memory_bytes,
        )
    if seen.exit_code is None or not (called or seen.begun):
        when = "while it ran" if called else "before the function was called"
        return Ending(Outcome.LOST, seen.broken or f"its worker went away {when}", wall_s=wall_s)
    when = "" if called else " while its function was looked for"
    if seen.exit_code < 0:
        name = signal_name(-seen.exit_code)
        unknown = ", sender unknown" if name == "SIGKILL" else ""
        return Ending(Outcome.CRASHED, f"its process was killed by {name}{unknown}{when}", wall_s=wall_s, signal=name)
    reason = f"its process left with exit code {seen.exit_code}{when}"
    return Ending(Outcome.CRASHED, reason, wall_s=wall_s, exit_code=seen.exit_code)


def _reported(report: dict[str, object]) -> Ending:
    """A worker's own report; see `worker.report` for its keys."""
    given: dict[str, object] = {key: report[key] for key in _KEYS if report.get(key) is not None}
    if "file" in given:
        given["value_file"] = given.pop("file")
    if "error" in given:
        given["error"] = TaskError(**given["error"])  # type: ignore[arg-type]
    return Ending(outcome=Outcome(str(report["outcome"])), **given)  # type: ignore[arg-type]


_KEYS = ("reason", "value", "file", "error", "wall_s", "cpu_s", "peak_memory_bytes", "exit_code", "signal")
