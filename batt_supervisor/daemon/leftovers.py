"""Files that no row names any more: taken away a few at a time, between two rounds of the loop."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.store.place import FILES_LOCK

FILES_AT_ONCE: Final = 64
"""Most files that are unlinked in one round, unless that takes longer than `ROUND_S`."""

ROUND_S: Final = 0.005

AGAIN_S: Final = 1.0
"""How long to wait for a backup to let go of the files."""

LOG_REST_S: Final = 5.0
"""How long a log must have been nobody's: the last output in it may not be in the store yet."""

SWEEP_S: Final = 86_400.0
"""How often logs/ is looked through, and how old a log there must be that no row names: people read them, too."""

SWEEP_FIRST_S: Final = 1.0

NAMES_AT_ONCE: Final = 200

log = structlog.get_logger("retention")


class Leftovers:
    """Result files and logs that are to go. They are kept in memory only: what is still there is found at a start.

    Args:
        folder: The state directory.
        living: Gives the names of the logs that workers write to now.
        named: Gives those of some logs that rows name.

    Attributes:
        wake_s: When there is something to do; monotonic.
    """

    def __init__(
        self,
        folder: Path,
        living: Callable[[], set[str]],
        named: Callable[[Sequence[str]], set[str]],
        now: Now,
    ) -> None:
        self._folder, self._living, self._named = folder, living, named
        self._results: deque[str] = deque()
        self._logs: dict[str, float] = {}  # when each was seen to be nobody's
        self._sweep: Iterator[os.DirEntry[str]] | None = None
        self._sweep_s = now.mono_s + SWEEP_FIRST_S
        self._sweep_wall_s = 0.0
        self.wake_s = self._sweep_s

    @property
    def results_left(self) -> bool:
        """Whether there are result files still to go. Logs may have to wait until their workers have ended."""
        return bool(self._results)

    def add(self, results: Iterable[str], logs: Iterable[str], now: Now) -> int:
        """These are nobody's any more; how many bytes will be free."""
        freed = 0
        for kind, names in (("results", tuple(results)), ("logs", tuple(logs))):
            for name in names:
                try:
                    freed += (self._folder / kind / name).stat().st_size
                except FileNotFoundError:
                    continue
                if kind == "results":
                    self._results.append(name)
                else:
                    self._logs[name] = now.mono_s
                self.wake_s = now.mono_s
        return freed

    def tick(self, now: Now) -> None:
        """Take some of them away, when it is time."""
        if now.mono_s < self.wake_s:
            return
        if self._sweep is not None or now.mono_s >= self._sweep_s:
            self._look_through(now)
        logs = self._logs_due(now)
        if self._results or logs:
            self._unlink(logs, now)
        due_s = min((since_s + LOG_REST_S for since_s in self._logs.values()), default=float("inf"))
        more = bool(self._results) or self._sweep is not None
        self.wake_s = max(self.wake_s, now.mono_s if more else min(due_s, self._sweep_s))

    def _unlink(self, logs: list[str], now: Now) -> None:
        with alone(self._folder / FILES_LOCK) as mine:
            if not mine:
                self.wake_s = now.mono_s + AGAIN_S
                return
            until_s = time.monotonic() + ROUND_S
            for path in self._next(logs):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning("a file cannot be removed", path=str(path), reason=error.strerror)
                if time.monotonic() > until_s:
                    return

    def _next(self, logs: list[str]) -> Iterator[Path]:
        for name in logs[:FILES_AT_ONCE]:
            del self._logs[name]
            yield self._folder / "logs" / name
        for _ in range(min(FILES_AT_ONCE, len(self._results))):
            yield self._folder / "results" / self._results.popleft()

    def _logs_due(self, now: Now) -> list[str]:
        """Logs that have been nobody's for long enough, and are still."""
        due = [name for name, since_s in self._logs.items() if now.mono_s >= since_s + LOG_REST_S]
        if not due:
            return due
        living, due = self._living(), due[:NAMES_AT_ONCE]
        named = self._named(due)
        for name in due:
            if name in named:
                del self._logs[name]  # output of a later attempt: it goes with that one's run
            elif _worker_of(name) in living:
                self._logs[name] = now.mono_s
        return [name for name in due if name in self._logs and self._logs[name] < now.mono_s]

    def _look_through(self, now: Now) -> None:
        """Look at some more files of logs/; those of no row are put with the others when they are old enough."""
        if self._sweep is None:
            self._sweep, self._sweep_wall_s = os.scandir(self._folder / "logs"), now.wall_ms / 1000
        entries = list(islice(self._sweep, NAMES_AT_ONCE))
        if not entries:
            self._sweep, self._sweep_s = None, now.mono_s + SWEEP_S
            return
        own = f"nursery-{os.getpid()}-"
        named = self._named([entry.name for entry in entries])
        for entry in entries:
            if entry.name not in named and not entry.name.startswith(own) and self._is_old(entry):
                self._logs.setdefault(entry.name, now.mono_s)

    def _is_old(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.stat(follow_symlinks=False).st_mtime < self._sweep_wall_s - SWEEP_S
        except FileNotFoundError:
            return False


def _worker_of(name: str) -> str:
    """The first log of the worker that a log is of: `worker-7-1.log` of `worker-7-1.log.2`."""
    return name.partition(".log")[0] + ".log"


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether nobody reads the files just now, and nobody will until the end of the block. A backup holds the lock."""
    try:
        lock = open(path, "a")  # noqa: SIM115 - closed by the next block
    except OSError:  # the disk is full, or takes no writes: files can wait
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
