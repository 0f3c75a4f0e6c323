"""What may start now: what is ample, what is held, what the others see, and what the level does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.clock import Now
from batt_supervisor.config import Settings
from batt_supervisor.core.admission import Hold, Need
from batt_supervisor.core.levels import CUT_S, Level
from batt_supervisor.core.model import Ending, Head, Limits, Outcome, Room, Space, Tries, Work
from batt_supervisor.core.needs import Needs
from batt_supervisor.core.world import Held, Line
from batt_supervisor.daemon.attempt import Attempt
from batt_supervisor.daemon.gate import AMPLE_S, FORGET_S, Gate
from batt_supervisor.headroom.ledger import Ledger
from batt_supervisor.testing import FixedHeadroom

MIB = 2**20
WORK = Work(Room("/"), Limits(10.0), function="zoo:work")
WORKS = {(1, 0): WORK}
LINE = Line(1, 0)


class Clock:
    def __init__(self) -> None:
        self.now = Now(1000.0, 1_700_000_000_000)

    def advance(self, seconds: float) -> Now:
        self.now = Now(self.now.mono_s + seconds, self.now.wall_ms + round(seconds * 1000))
        return self.now


class Rig:
    """A gate over a machine that has what it is told to have."""

    def __init__(self, folder: Path, ledger: str = "off", **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        facts: dict[str, Any] = {"slots": 4, "reserve_memory": 100 * MIB, "need_memory": 100 * MIB}
        self.settings = Settings(state_dir=folder, socket=folder / "s", **facts | settings)
        self.headroom, self.clock = FixedHeadroom(), Clock()
        self.gate = Gate(self.headroom, Ledger.open(ledger, str(folder)), self.settings, Needs(), self.clock.now)

    def look(self, after_s: float = 0.0, refusals: int = 0, active: int = 0) -> None:
        self.gate.look(WORKS, active, refusals, self.clock.advance(after_s))

    def attempt(self) -> Attempt:
        head = Head(7, 1, 0, 0, Tries(), 0)
        return Attempt(head, WORK, 0, Space(100 * MIB, 4), False, self.clock.now.mono_s)

    def end(self, outcome: Outcome, active: int = 4, **given: Any) -> None:
        self.gate.ended(self.attempt(), Ending(outcome, **given), active, self.clock.now)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "one")


def test_where_every_slot_fits_nobody_is_asked(rig: Rig) -> None:
    rig.headroom.set(memory_bytes=500 * MIB)  # four needs, and the reserve
    rig.look(AMPLE_S[1])
    assert rig.gate.ample
    rig.headroom.set(memory_bytes=499 * MIB)
    rig.look(AMPLE_S[1])
    assert not rig.gate.ample


def test_the_machine_is_looked_at_seldom_where_there_is_plenty(rig: Rig) -> None:
    rig.headroom.set(memory_bytes=8000 * MIB)
    rig.look(AMPLE_S[1])
    rig.headroom.set(memory_bytes=600 * MIB)
    rig.look(AMPLE_S[1] * 0.9)
    assert rig.gate.free.space.memory_bytes == 8000 * MIB
    rig.look(AMPLE_S[1] * 0.1 + 0.001)
    assert rig.gate.free.space.memory_bytes == 600 * MIB
    rig.headroom.set(memory_bytes=300 * MIB)
    rig.look(AMPLE_S[0] + 0.001)
    assert rig.gate.free.space.memory_bytes == 300 * MIB
    assert not rig.gate.ample
    rig.headroom.set(memory_bytes=8000 * MIB)
    rig.look(0.0)  # each time
    assert rig.gate.ample


def test_what_was_learned_is_what_is_needed_but_never_more_than_is_allowed(rig: Rig) -> None:
    assert rig.gate.expected(WORK) == Need(Space(100 * MIB, 4), known=False)
    for _ in range(5):
        rig.end(Outcome.OK, peak_memory_bytes=1000 * MIB, peak_threads=9)
    assert rig.gate.expected(WORK) == Need(Space(1100 * MIB, 10), known=True)
    limited = Work(Room("/"), Limits(10.0, memory_limit_bytes=1050 * MIB, thread_limit=8), function="zoo:work")
    assert rig.gate.expected(limited).space == Space(1050 * MIB, 8)


def test_exhaustion_makes_it_narrower_and_success_wider_and_each_change_is_told(rig: Rig) -> None:
    rig.look()
    rig.end(Outcome.OUT_OF_THREADS)
    assert (rig.gate.throttle.level, rig.gate.throttle.at_once) == (Level.REDUCED, 2)
    assert not rig.gate.ample
    rig.clock.advance(CUT_S)
    for _ in range(20):
        rig.end(Outcome.OK)
    assert rig.gate.throttle.level is Level.OPEN
    assert (rig.gate.changes[0].level, rig.gate.changes[0].width) == (Level.REDUCED, 2)
    assert "t7 ended out_of_threads" in rig.gate.changes[0].reason
    assert rig.gate.changed == len(rig.gate.changes) == 3  # 2, 3, 4


def test_a_limit_that_a_process_has_for_itself_is_no_reason_to_be_narrower(rig: Rig) -> None:
    rig.end(Outcome.OUT_OF_THREADS, own_limit=True)
    assert rig.gate.throttle.level is Level.OPEN


def test_a_refused_worker_makes_it_narrower_once(rig: Rig) -> None:
    rig.look(refusals=3, active=4)
    assert rig.gate.throttle.at_once == 2
    rig.look(CUT_S, refusals=3, active=2)
    assert rig.gate.throttle.at_once == 2


def test_evictions_are_counted(rig: Rig) -> None:
    rig.end(Outcome.EVICTED)
    assert rig.gate.evictions == 1
    assert rig.gate.throttle.level is Level.REDUCED


def test_a_line_is_held_since_it_was_first_and_until_it_is_no_more(rig: Rig) -> None:
    began_s = rig.clock.now.mono_s
    hold = Held(1, Hold("memory", 1, "short"), LINE)
    for _ in range(5):
        rig.gate.held([hold], rig.clock.now)
        rig.clock.advance(FORGET_S * 0.9)
    assert rig.gate.held_since == {LINE: began_s}
    rig.gate.held([Held(1, Hold("slots", 1, "all run"), LINE)], rig.clock.advance(FORGET_S))
    assert rig.gate.held_since == {}
    rig.gate.held([hold], rig.clock.now)
    rig.gate.started(LINE)
    assert rig.gate.held_since == {}


def test_supervisors_see_what_each_other_has_promised(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger")
    one, other = Rig(tmp_path / "one", place), Rig(tmp_path / "other", place)
    for rig in (one, other):
        rig.headroom.set(memory_bytes=700 * MIB)
        rig.look(AMPLE_S[1])
        rig.gate.note(lambda: Space(0, 0), [], False, rig.clock.now)
    for rig in (one, other):
        rig.look(AMPLE_S[1])
        assert not rig.gate.ample, "both appetites do not fit"
    with one.gate.turn(True):
        assert one.gate.fits(Need(Space(400 * MIB, 1)), Space(0, 0), 0)
        one.gate.note(lambda: Space(400 * MIB, 0), [one.attempt()], True, one.clock.now)
    with other.gate.turn(True):
        assert not other.gate.fits(Need(Space(400 * MIB, 1)), Space(0, 0), 0)
        assert other.gate.others.running == 1
    one.gate.close()
    with other.gate.turn(True):
        assert other.gate.fits(Need(Space(400 * MIB, 1)), Space(0, 0), 0)
    other.gate.close()


def test_one_that_has_work_waiting_is_always_promised_the_threads_of_one_attempt(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger")
    one, other = Rig(tmp_path / "one", place), Rig(tmp_path / "other", place)
    one.gate.note(lambda: Space(0, 0), [], True, one.clock.now)
    assert other.gate.ledger.others().promised.threads == one.settings.need_threads
    one.clock.advance(AMPLE_S[1])
    one.gate.note(lambda: Space(0, 0), [], False, one.clock.now)
    assert other.gate.ledger.others().promised.threads == 0
    for rig in (one, other):
        rig.gate.close()
