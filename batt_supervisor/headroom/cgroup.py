"""The limits of one control group that this process is in: what they are, and how much of them is used."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batt_supervisor.core.headroom import Limit, Resource
from batt_supervisor.headroom.files import Reader, told
from batt_supervisor.headroom.pressure import OFF, Stall, stalls, worst
from batt_supervisor.headroom.where import Level
from batt_supervisor.held import Held

__all__ = ["Group"]

NO_LIMIT: Final = 2**62
"""v1 memory says the highest multiple of a page below 2**63 where there is no limit: 16 KiB and 64 KiB pages differ."""


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """How one limit of a group is read. There is one of each, looked up by identity at every reading.

    Attributes:
        limit_key: The line of the limit's file that has it; the whole file, if empty.
        cache_key: The line of `memory.stat` with what is counted as used but given back before anything is refused:
            file cache that was not touched lately. What is left is the working set.
    """

    resource: Resource
    limit_file: str
    used_file: str
    limit_key: bytes = b""
    cache_key: bytes = b""

    @property
    def name(self) -> str:
        return self.limit_key.decode() or self.limit_file


RULES: Final[Mapping[str, Sequence[Rule]]] = {
    "": (
        Rule(Resource.THREADS, "pids.max", "pids.current"),
        Rule(Resource.MEMORY, "memory.max", "memory.current", cache_key=b"inactive_file"),
        # Nothing is refused above this one, but everything in the group is slowed down until it is below again.
        Rule(Resource.MEMORY, "memory.high", "memory.current", cache_key=b"inactive_file"),
    ),
    "pids": (Rule(Resource.THREADS, "pids.max", "pids.current"),),
    "memory": (
        Rule(Resource.MEMORY, "memory.limit_in_bytes", "memory.usage_in_bytes", cache_key=b"total_inactive_file"),
        # Memory and swap together: with most containers as much as memory alone, so what was swapped out counts here.
        Rule(
            Resource.MEMORY,
            "memory.memsw.limit_in_bytes",
            "memory.memsw.usage_in_bytes",
            cache_key=b"total_inactive_file",
        ),
    ),
    "cpu": (),
}

HIDDEN: Final = Rule(
    Resource.MEMORY,
    "memory.stat",
    "memory.usage_in_bytes",
    limit_key=b"hierarchical_memory_limit",
    cache_key=b"total_inactive_file",
)
"""The least limit of a v1 group and all around it: of those that a container does not see, there is only this word.
What others use of that limit cannot be seen, so it is the most that may be free."""

STAT: Final = "memory.stat"


class Group(Reader):
    """One group, with its files held open: at most three for each limit that it has, and five beside those.

    A file that is not there is no limit. One that cannot be read is told in `complaints`, and what it said last serves.

    Attributes:
        cpus: CPUs' worth of time that it may use; None without a quota.
        stalls: Pressure in it, where the kernel measures that.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level = level
        self.cpus: float | None = None
        self.stalls: Mapping[Stall, float] = {}
        self._rules = list(RULES[level.controller])
        if level.controller == "memory" and not level.depth:
            self._rules.append(HIDDEN)
        self._absent: set[str] = set()
        self._limits: dict[Rule, int] = {}
        self._read: dict[Rule, Limit] = {}  # what served last

    def find_anew(self) -> None:
        """Files that were not there may be now: a controller may have been switched on."""
        self._absent.clear()

    def refresh(self) -> None:
        """Read what changes slowly: the limits themselves, the quota, pressure."""
        self._slow = []
        limits = {}
        for rule in self._rules:
            try:
                limit = self._limit(rule)
            except (OSError, ValueError) as error:
                self._complain(self._slow, rule.limit_file, error)
                limit = self._limits.get(rule)
            if limit is not None:
                limits[rule] = limit
        if HIDDEN in limits and limits[HIDDEN] >= limits.get(RULES["memory"][0], NO_LIMIT):
            del limits[HIDDEN]  # it is its own
        self._limits = limits
        if self.level.controller in ("", "cpu"):
            self._refresh_quota()
        if not self.level.controller:
            self.stalls = worst(self._stalls())

    def limits(self) -> Iterator[Limit]:
        """What is used now, of each limit that it has."""
        self._quick = []
        seen: dict[tuple[str, bytes], int] = {}  # two limits may go by the same file
        for rule, limit in self._limits.items():
            try:
                used = self._used(rule, seen)
            except (OSError, ValueError) as error:
                self._complain(self._quick, rule.used_file, error)
                if rule in self._read:
                    yield self._read[rule]
                continue
            name = f"{rule.name} of {self.level.path}"
            self._read[rule] = Limit(rule.resource, name, f"{self.level.folder}/{rule.limit_file}", limit, used)
            yield self._read[rule]

    def _limit(self, rule: Rule) -> int | None:
        text = self._text(rule.limit_file)
        if text is None:
            return None
        word = _line(text, rule.limit_key) if rule.limit_key else text.strip()
        if word is None or word == b"max":
            return None
        limit = int(word)
        return limit if limit < NO_LIMIT else None

    def _used(self, rule: Rule, seen: dict[tuple[str, bytes], int]) -> int:
        used = self._count(rule.used_file, b"", seen)
        if used is None:
            raise FileNotFoundError(errno.ENOENT, "it is not there, but its limit is")
        cache = self._count(STAT, rule.cache_key, seen) if rule.cache_key else None
        # The two are read one after the other, so the cache may be more by then than all that was used.
        return max(0, used - (cache or 0))

    def _count(self, file: str, key: bytes, seen: dict[tuple[str, bytes], int]) -> int | None:
        if (file, key) not in seen:
            text = self._text(file)
            word = text and (_line(text, key) if key else text)
            if not word:
                return None
            seen[file, key] = int(word)
        return seen[file, key]

    def _refresh_quota(self) -> None:
        try:
            self.cpus = self._quota_v1() if self.level.controller else self._quota_v2()
        except (OSError, ValueError) as error:
            self._complain(self._slow, "cpu quota", error)

    def _quota_v2(self) -> float | None:
        quota, _, period = (self._text("cpu.max") or b"max").partition(b" ")
        return None if quota.strip() == b"max" else int(quota) / int(period or 100_000)

    def _quota_v1(self) -> float | None:
        quota, period = self._text("cpu.cfs_quota_us"), self._text("cpu.cfs_period_us")
        return int(quota) / int(period) if quota and period and int(quota) > 0 and int(period) > 0 else None

    def _stalls(self) -> Iterator[Mapping[Stall, float]]:
        for resource in ("memory", "cpu"):
            file = f"{resource}.pressure"
            try:
                yield stalls(resource, self._text(file) or b"")
            except (OSError, ValueError) as error:
                if getattr(error, "errno", None) not in OFF:
                    self._complain(self._slow, file, error)

    def _text(self, name: str) -> bytes | None:
        """What a file says; None if there is no such file."""
        if name in self._absent:
            return None
        file = self._held.get(name)
        if file is None:
            file = self._held[name] = Held(f"{self.level.folder}/{name}")
        try:
            return file.read()
        except (FileNotFoundError, NotADirectoryError):
            self._absent.add(name)
            return None

    def _complain(self, complaints: list[str], name: str, error: Exception) -> None:
        complaints.append(told(str(Path(self.level.folder, name)), error))


def _line(text: bytes, key: bytes) -> bytes | None:
    """The number on the line of that name, in a file of names and numbers."""
    if text.startswith(key + b" "):
        start = len(key) + 1
    else:
        start = text.find(b"\n" + key + b" ")
        if start < 0:
            return None
        start += len(key) + 2
    end = text.find(b"\n", start)
    return text[start : end if end >= 0 else None]
