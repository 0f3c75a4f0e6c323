"""What may start now, in one place: the last reading, the ledger, the level, and what attempts are expected to take.

As long as everybody's appetite fits at once, ours and that of this user's other supervisors, nothing has to be asked:
starting is free. Where it does not, what starts is decided in a turn of the ledger, in which no other decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.config import Settings
from batt_supervisor.core import levels
from batt_supervisor.core.admission import Hold, Need, Start, admit, clamped, least_alone
from batt_supervisor.core.headroom import NOBODY, Entry, Others, Reading
from batt_supervisor.core.levels import Level, Throttle, scaled
from batt_supervisor.core.model import NOTHING, RESOURCE, Ending, Outcome, Space, Work
from batt_supervisor.core.needs import CUT_SHORT, Needs
from batt_supervisor.core.world import Held, Line
from batt_supervisor.daemon.attempt import Attempt
from batt_supervisor.headroom.ledger import Ledger
from batt_supervisor.headroom.machine import Headroom

CHANGES: Final = 20
"""How many changes of the level are kept for people."""

NEEDS_S: Final = 0.5
"""How often what was learned is taken into account."""

AMPLE_S: Final = (0.25, 1.0)
"""How often the machine is looked at, and the ledger written, while everybody's appetite fits: what we start ourselves
is in that already, so only what others do can change it. The second: while it would still fit in half of what is free.
In a busy battd a reading takes a millisecond, for each file that it reads gives up the interpreter's lock."""

SETTLE_S: Final = 1.5
"""How long others may not know yet that our appetite has grown. For them all may be ample until they look, so that they
start what they may, and note it later: meanwhile they count as if they had started all of it."""

FORGET_S: Final = 1.0
"""A line that was not held for so long is not held any more: others may just have been looked at."""

log = structlog.get_logger("gate")

Works = Mapping[tuple[int, int], Work]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the level."""

    at_ms: int
    level: Level
    width: int
    reason: str


class Gate:
    """See the module. The loop's alone.

    Attributes:
        reading: The last look at the machine.
        others: This user's other supervisors, as the ledger had them last.
        throttle: How many attempts may run at once.
        ample: Nobody need ask: everybody's appetite fits.
        changes: The last changes of the level.
        changed: How many there have been.
        evictions: Attempts that were stopped to save the rest.
        relieved_s: When something was last given up for want of memory or threads, monotonic.
        ended_s: When an attempt last ended, monotonic.
        held_since: Since when each line has been held for want of memory or threads, monotonic.
    """

    def __init__(self, headroom: Headroom, ledger: Ledger, settings: Settings, needs: Needs, now: Now) -> None:
        self.settings = settings
        self.learned = needs
        self.ledger = ledger
        self._headroom = headroom
        self.reading: Reading = headroom.read(now.mono_s)
        self.free = self.reading.free()
        self.others: Others = NOBODY
        self.throttle: Throttle = levels.opened(settings.slots)
        self.ample = False
        self.changes: deque[Change] = deque(maxlen=CHANGES)
        self.changed = 0
        self.evictions = 0
        self.relieved_s = float("-inf")
        self.ended_s = float("-inf")
        self.held_since: dict[Line, float] = {}
        self._held_s: dict[Line, float] = {}  # when each of them was last seen to be
        self._needs: dict[tuple[int, int], Need] = {}
        self._needs_s = float("-inf")
        self._refusals = 0
        self._read_s, self._keep_s = now.mono_s, AMPLE_S[False]
        self._entry = Entry()
        self._noted_s = self._grown_s = float("-inf")
        self._now = now

    @property
    def reserve(self) -> Space:
        """What stays free whatever waits, on a machine of this size."""
        return scaled(self.settings.policy().reserve, self.free.total)

    # Looking

    def look(self, works: Works, active: int, refusals: int, now: Now) -> None:
        """Take in a new reading, if there is one.

        Args:
            active: How many attempts run.
            refusals: How often the kernel has refused a thread or a process of battd's own.
        """
        self._now = now
        if refusals > self._refusals:
            self._refusals = refusals
            self._set(levels.exhausted(self.throttle, active, "a worker could not be started", now.mono_s), now)
        learns = now.mono_s - self._needs_s >= NEEDS_S or self._needs.keys() != works.keys()
        if learns:
            self._needs_s = now.mono_s
            self._needs = {key: self.expected(work) for key, work in works.items()}
        if not self.ample or now.mono_s - self._read_s >= self._keep_s:
            self._read(now)
        elif not learns:
            return
        throttle = levels.resized(self.throttle, self.settings.slots)
        throttle = levels.rested(throttle, now.mono_s)
        self._set(levels.pressed(throttle, self.free, self.reading.pressure, self.reserve), now)
        free, appetite = self.free.space, self.appetite()
        if self.others.holders and _exceeds(appetite, self._entry.appetite):
            self._grown_s = now.mono_s
        left = free - self.reserve - appetite - self.others.appetite
        fits = left.memory_bytes >= 0 and left.threads >= 0
        known = now.mono_s - self._grown_s >= SETTLE_S
        self.ample = fits and known and self.throttle.level is Level.OPEN and not self.held_since
        wide = 2 * left.memory_bytes >= free.memory_bytes and 2 * left.threads >= free.threads
        self._keep_s = AMPLE_S[wide]

    def _read(self, now: Now) -> None:
        self.others = self.ledger.others()
        reading, self._read_s = self._headroom.read(now.mono_s), now.mono_s
        if reading is not self.reading:
            self.reading, self.free = reading, reading.free()

    def is_near(self) -> bool:
        """Whether so little memory is free that it may be gone in a moment."""
        return self.free.space.memory_bytes < self.reserve.memory_bytes

    def appetite(self) -> Space:
        """The most that may come to be promised: the largest need there is, in every slot."""
        spaces = [need.space for need in self._needs.values()] or [NOTHING]
        slots = self.settings.slots
        return Space(max(one.memory_bytes for one in spaces) * slots, max(one.threads for one in spaces) * slots)

    def expected(self, work: Work) -> Need:
        """What the next attempt of this work is expected to take."""
        default = Space(self.settings.need_memory, self.settings.need_threads)
        need = self.learned.expected(work, default)
        limits = work.limits  # more than these allow, it never takes
        memory_bytes = min(need.space.memory_bytes, limits.memory_limit_bytes or need.space.memory_bytes)
        return replace(
            need, space=Space(memory_bytes, min(need.space.threads, limits.thread_limit or need.space.threads))
        )

    def needs(self) -> Mapping[tuple[int, int], Need]:
        """The same for each (run, stage) that was there at the last look."""
        return self._needs

    # Deciding

    @contextmanager
    def turn(self, wanted: bool) -> Iterator[None]:
        """Let no other supervisor decide meanwhile, where that matters; `note` is to be called in it."""
        if self.ample or not wanted:
            yield
            return
        with self.ledger.turn():  # if it cannot be had in time, the reserve has to serve
            # In this order: what the others note as taken, and promise no longer, has to show in the reading.
            self._read(self._now)
            if self._now.mono_s - self._grown_s < SETTLE_S:
                self.others = _at_most(self.others)
            yield

    def fits_ahead(self, work: Work, need: Space, held_s: float, promised: Space, active: int) -> bool:
        """Whether an attempt that was claimed ahead may start now.

        Args:
            need: What it was expected to take when it was claimed.
            held_s: How long that is ago: as long as it may have been held.
        """
        if not self.ample and active == 0 and self.others.running == 0:
            assumed = Space(self.settings.need_memory, self.settings.need_threads)
            declared = Space(work.need_memory_bytes or 0, work.need_threads or 0)
            least = least_alone(need, assumed=assumed, declared=declared, held_s=held_s)
            need = clamped(need, least, self.free.space)
        return self.fits(Need(need, self.expected(work).known), promised, active)

    def fits(self, need: Need, promised: Space, active: int, *, widening: bool = False) -> bool:
        """Whether one more attempt may start now, or, `widening`, a slot may be built."""
        if self.ample and not widening:  # where nothing waits all is ample, also where no further slot would fit
            return True
        nobody = active == 0 and self.others.running == 0 and not widening
        if (active >= self.throttle.at_once and not widening) or (self.throttle.held and not nobody):
            return False
        verdict: Start | Hold = admit(
            need,
            free=self.free,
            promised=promised,
            others=self.others.promised,
            reserve=self.reserve,
            alone=nobody,
        )
        return isinstance(verdict, Start)

    def note(self, promises: Callable[[], Space], active: Collection[Attempt], waiting: bool, now: Now) -> None:
        """Tell the others what has been promised; where nobody need ask, only now and then.

        Args:
            promises: Gives it.
            active: Attempts in slots.
            waiting: Something is queued. Then what one attempt takes of threads is promised in advance: a supervisor
                that is up can always run one.
        """
        if self.ample and now.mono_s - self._noted_s < self._keep_s:
            return
        promised = promises()
        if waiting and not active:
            promised = Space(promised.memory_bytes, max(promised.threads, self.settings.need_threads))
        entry = Entry(
            promised=promised,
            appetite=self.appetite(),
            running=len(active),
            oldest_s=min((attempt.since_s for attempt in active), default=float("inf")),
        )
        self._noted_s = now.mono_s
        if entry != self._entry or self.ledger.trouble:
            self._entry = entry
            self.ledger.note(entry)

    # Learning

    def ended(self, attempt: Attempt, ending: Ending, active: int, now: Now) -> None:
        """An attempt has ended: what it took, and whether there was enough of it."""
        self.ended_s = now.mono_s
        work, outcome = attempt.work, ending.outcome
        whole = outcome is Outcome.OK or outcome not in CUT_SHORT
        if outcome is Outcome.OK:
            if self.throttle.width < self.throttle.full:
                self._set(levels.succeeded(self.throttle, 1, now.mono_s), now)
        elif (outcome in RESOURCE and not ending.own_limit) or outcome is Outcome.EVICTED:
            self.evictions += outcome is Outcome.EVICTED
            why = f"t{attempt.head.task_id} ended {outcome.value}"
            self._set(levels.exhausted(self.throttle, active, why, now.mono_s), now)
        self.learned.learn(work.kind, ending.peak_memory_bytes, ending.peak_threads, ok=whole)

    def relieved(self, now: Now) -> None:
        """Something is given up for want of memory or threads."""
        self.relieved_s = now.mono_s

    def held(self, holds: Collection[Held], now: Now) -> None:
        """What the last plan held for want of room."""
        for one in holds:
            if one.line is not None and one.hold.short in ("memory", "threads"):
                self.held_since.setdefault(one.line, now.mono_s)
                self._held_s[one.line] = now.mono_s
        for line in [line for line, at_s in self._held_s.items() if now.mono_s - at_s > FORGET_S]:
            del self._held_s[line], self.held_since[line]

    def started(self, line: Line) -> None:
        """The first of a line has started: what waits now is another."""
        self.held_since.pop(line, None)
        self._held_s.pop(line, None)

    def _set(self, throttle: Throttle, now: Now) -> None:
        before, self.throttle = self.throttle, throttle
        self.ample = self.ample and throttle.level is Level.OPEN
        if (throttle.level, throttle.at_once) == (before.level, before.at_once):
            return
        self.changed += 1
        reason = throttle.told() or "nothing has run short for a while"
        self.changes.append(Change(now.wall_ms, throttle.level, throttle.at_once, reason))
        log.info("level", now=throttle.level.value, width=throttle.at_once, reason=reason)  # `level` is the log's own

    def close(self) -> None:
        self.ledger.close()


def _exceeds(one: Space, other: Space) -> bool:
    return one.memory_bytes > other.memory_bytes or one.threads > other.threads


def _at_most(others: Others) -> Others:
    """With all that they may have promised by now."""
    return Others([replace(one, entry=replace(one.entry, promised=_largest(one.entry))) for one in others.holders])


def _largest(entry: Entry) -> Space:
    promised, appetite = entry.promised, entry.appetite
    return Space(max(promised.memory_bytes, appetite.memory_bytes), max(promised.threads, appetite.threads))
