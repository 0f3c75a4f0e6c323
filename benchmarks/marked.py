"""The task that the benchmark of a million tasks queues: the first that runs leaves a mark of when that was."""

from __future__ import annotations

import time
from pathlib import Path

MARK = "first-ran"
"""File in the run's directory: wall time in nanoseconds at which the first task ran since the file was removed."""


def mark(n: int) -> None:
    """Where the mark is there already, nothing; either way not many of them run before battd is killed."""
    now_ns = time.time_ns()
    mark = Path(MARK)
    if not mark.exists():
        # Under its name only when it is whole: somebody looks for it all the time.
        fresh = Path(f"{MARK}-{n}")
        fresh.write_text(str(now_ns))
        fresh.rename(mark)
    time.sleep(0.2)
