"""What attempts of each kind were seen to take, and what the next one is therefore expected to take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from batt_supervisor.core.admission import Need
from batt_supervisor.core.model import Outcome, Space, Work

PEAKS: Final = 64
"""Peaks of a kind that are remembered. What a kind takes changes with its arguments and its code: old ones must go."""

QUANTILE_PERCENT: Final = 95
"""The part of them that a need covers. Not all: for one attempt that took much more than any other, all others would
be held back for as long as it is remembered. What takes more than its need finds it in the reserve, or is out of
memory or threads and goes again with twice as much."""

MARGIN_PERCENT: Final = 10
"""What is added. It is all in the manner of Autopilot's moving-window recommenders (Rzadca et al., "Autopilot: workload
autoscaling at Google", EuroSys 2020): a high percentile of recent peaks, or the largest, and 10 to 15 % on top."""

LEARNED_AFTER: Final = 5
"""Peaks before the default is given up; until then a kind may only turn out to need more."""

KINDS_MAX: Final = 1000
"""Kinds that are remembered; then the one whose last use lies furthest back is forgotten."""

CUT_SHORT: Final = frozenset(
    {
        Outcome.MEMORY_LIMIT,
        Outcome.THREAD_LIMIT,
        Outcome.CRASHED,  # perhaps for want of memory: a SIGKILL does not say
        Outcome.OUT_OF_MEMORY,
        Outcome.OUT_OF_THREADS,
        Outcome.STARVED,
        Outcome.EVICTED,
        Outcome.LOST,
        Outcome.CANCELLED,
    }
)
"""Outcomes of attempts that might have taken more, had they gone on: their peaks are lower bounds. The limits of time
are not among them: what hangs would never teach anything, and it takes what it takes until it is ended."""

Peak = int | None
"""The most that an attempt took; None where it was too short to be looked at."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What is remembered of a kind.

    Attributes:
        attempts: How many were learned from.
        memory: Peaks of its last attempts in bytes, oldest first.
        threads: Peaks in threads and processes likewise; None for an attempt that nobody looked at.
    """

    kind: str
    attempts: int
    memory: tuple[int, ...] = ()
    threads: tuple[Peak, ...] = ()

    @property
    def is_learned(self) -> bool:
        """Whether the need for memory follows the peaks, and no longer a default."""
        return len(self.memory) >= LEARNED_AFTER


class _Peaks:
    """Recent peaks of one resource, and the quantile of them."""

    def __init__(self, peaks: Iterable[Peak] = ()) -> None:
        self.last = deque(peaks, maxlen=PEAKS)
        self._range: tuple[int | None, int | None] | None = None

    def add(self, peak: Peak) -> None:
        self.last.append(peak)
        self._range = None

    def add_bound(self, bound: int) -> bool:
        """Learn that an attempt took at least so much; whether that is any news.

        It takes the place of the smallest peak, so that no quantile gets smaller by it, and nothing counts as learned
        any sooner.
        """
        known = [peak for peak in self.last if peak is not None]
        if not known:
            self.add(bound)
            return True
        least = min(known)
        if bound <= least:
            return False
        self.last[self.last.index(least)] = bound
        self._range = None
        return True

    def need(self, declared: int | None, default: int) -> int:
        """What an attempt is expected to take.

        Attempts that nobody looked at count as ones that took `declared`, or else `default`.
        """
        base = default if declared is None else declared
        low, high = self._quantile()
        need = base if high is None else min(base, high)
        need = need if low is None else max(need, low)
        if declared is not None or len(self.last) < LEARNED_AFTER:
            return max(base, need)
        return need

    def shows(self, need: int) -> bool:
        """Whether a need is what was seen, and no guess."""
        return need in self._quantile()

    def _quantile(self) -> tuple[int | None, int | None]:
        """The quantile with its margin, had the attempts that nobody looked at taken nothing, and had they taken most.

        Had they all taken something in between, it would be just that. None where it is one of theirs.
        """
        if self._range is None:
            known = sorted(peak for peak in self.last if peak is not None)
            unknown = len(self.last) - len(known)
            rank = _up(len(self.last) * QUANTILE_PERCENT, 100)  # counted from 1
            low = _with_margin(known[rank - unknown - 1]) if rank > unknown else None
            high = _with_margin(known[rank - 1]) if 0 < rank <= len(known) else None
            self._range = low, high
        return self._range


def _with_margin(peak: int) -> int:
    """At least one more: threads are looked at ten times a second, and some come and go in between."""
    return _up(peak * (100 + MARGIN_PERCENT), 100)


def _up(amount: int, part: int) -> int:
    return -(-amount // part)


@dataclass(slots=True)
class _Kind:
    attempts: int = 0
    memory: _Peaks = field(default_factory=_Peaks)
    threads: _Peaks = field(default_factory=_Peaks)
    alike: tuple[int, int] | None = None  # peaks of memory between which an attempt says nothing new

    def is_nothing_new(self, memory_bytes: int | None, threads: int | None) -> bool:
        """Whether to remember an attempt would change nothing: as many as are remembered are, and all are like it.

        So it is with kinds of tiny attempts, of which there may be thousands a second.
        """
        if self.alike is None:
            self.alike = self._look()
        return threads is None and memory_bytes is not None and self.alike[0] <= memory_bytes <= self.alike[1]

    def _look(self) -> tuple[int, int]:
        known = [peak for peak in self.memory.last if peak is not None]
        if len(known) < PEAKS or len(self.threads.last) < PEAKS or any(peak is not None for peak in self.threads.last):
            return 1, 0
        low, high = min(known), max(known)
        # Up and down by some pages is no news, as long as all of it stays far below what the margin adds.
        return (low * 98 // 100, high * 102 // 100) if high * 95 <= low * 100 else (1, 0)


class Needs:
    """What was learned of each kind. Few kinds are in use at once; those that no longer are get forgotten."""

    def __init__(self, learned: Iterable[Learned] = ()) -> None:
        self._kinds: dict[str, _Kind] = {}  # least recently used first
        self._changed: set[str] = set()
        for one in learned:
            self.restore(one)

    def restore(self, learned: Learned) -> None:
        """Take over what was learned of a kind before; the most recently used one last."""
        self._put(learned.kind, _Kind(learned.attempts, _Peaks(learned.memory), _Peaks(learned.threads)))

    def learn(self, kind: str, memory_bytes: int | None, threads: int | None, *, ok: bool) -> None:
        """An attempt has ended, and these were its peaks.

        An attempt is too short to have its threads looked at where it takes less than 0.1 s. It may well have opened a
        pool, so it does not teach that its kind needs none: it counts as one that took what was declared, or else the
        default. A kind gets below these only if nearly all of its attempts were looked at.

        Args:
            memory_bytes: None where nobody could read it, which teaches nothing.
            threads: None where nobody looked.
            ok: It had gone as far as it would; else (see `CUT_SHORT`) its peaks are lower bounds, which may raise what
                is expected and never lower it.
        """
        if not ok and memory_bytes is None and threads is None:
            return
        known = self._kinds.get(kind) or _Kind()
        if ok and known.is_nothing_new(memory_bytes, threads):
            return
        if ok:
            if memory_bytes is not None:
                known.memory.add(memory_bytes)
            known.threads.add(threads)
        else:
            news = memory_bytes is not None and known.memory.add_bound(memory_bytes)
            news = (threads is not None and known.threads.add_bound(threads)) or news
            if not news:
                return
        known.attempts += 1
        known.alike = None
        self._put(kind, known)
        self._changed.add(kind)

    def expected(self, work: Work, default: Space) -> Need:
        """What the next attempt of this work is expected to take; never less than what was declared for it.

        Args:
            default: What is expected where nothing was declared and little was learned.
        """
        kind = self._kinds.get(work.kind)
        if kind is None:
            kind = _UNKNOWN
        else:
            self._put(work.kind, kind)
        space = Space(
            kind.memory.need(work.need_memory_bytes, default.memory_bytes),
            kind.threads.need(work.need_threads, default.threads),
        )
        # `admit` asks for it because of the threads: a mere guess of them holds nothing up for ever.
        return Need(space, known=work.need_threads is not None or kind.threads.shows(space.threads))

    def of_kind(self, kind: str, default: Space) -> Space:
        """What is expected of a kind's attempts where nothing was declared."""
        known = self._kinds.get(kind, _UNKNOWN)
        return Space(known.memory.need(None, default.memory_bytes), known.threads.need(None, default.threads))

    def dirty(self) -> list[Learned]:
        """Kinds that something was learned of since this was last asked; what of them is to be stored."""
        found = [self._learned(kind) for kind in self._kinds if kind in self._changed]
        self._changed.clear()
        return found

    def store_again(self, kinds: Iterable[str]) -> None:
        """These could not be stored: they are dirty still."""
        self._changed |= self._kinds.keys() & set(kinds)

    def _learned(self, kind: str) -> Learned:
        known = self._kinds[kind]
        memory = tuple(peak for peak in known.memory.last if peak is not None)
        return Learned(kind, known.attempts, memory, tuple(known.threads.last))

    def _put(self, kind: str, known: _Kind) -> None:
        """Remember a kind as the one that was used last."""
        self._kinds.pop(kind, None)
        if len(self._kinds) >= KINDS_MAX:
            forgotten = next(iter(self._kinds))
            del self._kinds[forgotten]
            self._changed.discard(forgotten)
        self._kinds[kind] = known


_UNKNOWN: Final = _Kind()
