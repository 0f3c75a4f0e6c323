"""The daemon's loop on a real store, with a pool, a headroom and a clock that do what the test says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batt_supervisor.config import Settings
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import Limits, Room, Work
from batt_supervisor.core.needs import Needs
from batt_supervisor.daemon import recover
from batt_supervisor.daemon.gate import Gate
from batt_supervisor.daemon.loop import Loop
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.headroom.ledger import Ledger
from batt_supervisor.store import Store, values
from batt_supervisor.store.read import Reader
from batt_supervisor.testing import FakePool, FixedHeadroom, ManualClock, eventually

ROOM = Room("/")
MiB = 2**20


class Rig:
    """A loop that is driven by hand."""

    def __init__(self, folder: Path, *, width: int = 2, **settings: Any) -> None:
        self.settings = Settings(state_dir=folder, socket=folder / "s", slots=width, **settings)
        self.clock = ManualClock()
        self.store = Store(folder / "queue.db", clock=self.clock)
        self.headroom, self.pool = FixedHeadroom(), FakePool(width)
        self._writing = Thread(target=self.store.writer.run, daemon=True)
        self._writing.start()
        self.reader: Reader = self.store.reader()
        self.needs = Needs()
        gate = Gate(self.headroom, Ledger.open("off", "test"), self.settings, self.needs, self.clock.read())
        self.loop = Loop(self.store, self.pool, gate, self.clock, self.settings)
        self.store.writer.on_commit = self.loop.touched

    def do(self, operation: Callable[[Any], Any]) -> Any:
        return self.store.writer.submit(operation).result(30)

    def submit(self, tasks: int, *, room: Room = ROOM, timeout_s: float = 60.0, **limits: Any) -> int:
        work = Work(room, Limits(timeout_s, **limits), function="zoo.calm:echo")
        new = values.NewRun("run", None, room.cwd, dict(room.env), None, (values.NewStage("only", work),))
        run_id: int = self.do(lambda tx: tx.create_run(new)).id
        rows = [values.NewTask(0, f"[{number}]") for number in range(tasks)]
        self.do(lambda tx: tx.add_tasks(run_id, 0, rows))
        self.do(lambda tx: tx.seal(run_id))
        self.loop.run_changed(run_id)
        return run_id

    def until(self, what: str, seen: Callable[[], Any]) -> Any:
        """Go round, without time passing, until it is so."""

        def look() -> Any:
            self.loop.tick()
            return seen()

        return eventually(what, look, within_s=20)

    def rest(self) -> None:
        """Go round until nothing is left to do, then a little more."""
        for _ in range(20):
            self.loop.tick()
            self.do(lambda tx: None)

    def states(self, run_id: int) -> dict[State, int]:
        return {tally.state: tally.count for tally in self.reader.tallies(run_id)}

    def publish(self) -> None:
        self.clock.advance(0.2)
        self.loop.tick()

    def finish_all(self, run_id: int) -> None:
        def ended() -> bool:
            for serials in self.pool.packs().values():
                self.pool.finish(serials[0])
            row = self.reader.run(run_id)
            return row is not None and row.ended_at_ms is not None

        self.until("the run has ended", ended)

    def close(self) -> None:
        self.loop.close()
        self.reader.close()
        self.store.writer.stop()
        self._writing.join(30)
        self.store.close()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**given: Any) -> Rig:
        rigs.append(Rig(tmp_path, **given))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def test_a_claim_is_on_disk_before_its_worker_hears_of_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    run = rig.submit(1)
    rig.until("it was sent", lambda: rig.pool.sent)
    assert rig.states(run) == {State.RUNNING: 1}


def test_no_more_run_than_there_are_slots(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=3)
    run = rig.submit(10)
    rig.until("three were sent", lambda: len(rig.pool.sent) == 3)
    rig.rest()
    assert len(rig.pool.sent) == 3
    rig.finish_all(run)
    assert rig.states(run)[State.SUCCEEDED] == 10


def test_short_memory_holds_with_the_limits_name_and_lets_one_run_alone(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(need_memory=100 * MiB, reserve_memory=1000 * MiB)
    rig.headroom.set(memory_bytes=500 * MiB)
    run = rig.submit(3)
    rig.until("one was sent", lambda: rig.pool.sent)
    rig.rest()
    assert len(rig.pool.sent) == 1
    rig.publish()
    hold = rig.loop.snapshot.holds[run]
    assert hold.short == "memory"
    assert "memory of the test" in hold.reason
    rig.finish_all(run)
    assert rig.states(run)[State.SUCCEEDED] == 3


def test_what_needs_more_than_is_free_waits_though_it_is_alone(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(need_memory=100 * MiB)
    rig.headroom.set(memory_bytes=99 * MiB)
    run = rig.submit(1)
    rig.rest()
    rig.publish()
    assert rig.pool.sent == []
    hold = rig.loop.snapshot.holds[run]
    assert (hold.short, hold.missing) == ("memory", 1 * MiB)
    rig.headroom.set(memory_bytes=100 * MiB)
    rig.publish()
    rig.until("it was sent", lambda: rig.pool.sent)


def test_short_threads_hold_and_the_reserve_is_kept_from_all_but_the_first(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(need_threads=4, reserve_threads=64)
    rig.headroom.set(threads=70)
    run = rig.submit(2)
    rig.until("one was sent", lambda: rig.pool.sent)
    rig.rest()
    rig.publish()
    hold = rig.loop.snapshot.holds[run]
    assert (hold.short, hold.missing) == ("threads", 1)  # 4 needed, 3 more promised to the first, 64 in reserve
    assert "threads of the test" in hold.reason
    rig.headroom.set(threads=71)
    rig.publish()
    rig.until("the other was sent", lambda: len(rig.pool.sent) == 2)


def test_what_has_just_started_is_promised_what_it_has_not_taken(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=4, need_memory=100 * MiB, reserve_memory=0)
    rig.headroom.set(memory_bytes=250 * MiB)
    rig.submit(4)
    rig.until("two were sent", lambda: len(rig.pool.sent) == 2)
    rig.rest()
    assert len(rig.pool.sent) == 2
    serial = rig.pool.sent[0][1].serial  # one of them has taken half of what it needs
    rig.pool.samples[serial] = Sample(1.0, 50 * MiB, 1, 0, 0)
    rig.pool.call(serial, rig.clock.read().mono_s)
    rig.clock.advance(2.0)
    rig.until("a third was sent", lambda: len(rig.pool.sent) == 3)


def test_a_held_run_does_not_hold_another_ones_tasks_that_fit_a_free_slot(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    held = rig.submit(1)
    other = rig.submit(1)
    rig.until("both were sent", lambda: len(rig.pool.sent) == 2)
    rig.finish_all(held)
    rig.finish_all(other)


def test_a_timeout_runs_from_the_call_and_boot_timeout_until_then(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(boot_timeout=30)
    run = rig.submit(1, timeout_s=5.0)
    rig.until("it was sent", lambda: rig.pool.sent)
    serial = rig.pool.sent[0][1].serial
    rig.clock.advance(20.0)
    rig.rest()
    assert rig.pool.ended == []
    rig.pool.call(serial, rig.clock.read().mono_s)
    rig.loop.tick()
    rig.clock.advance(4.9)
    rig.rest()
    assert rig.pool.ended == []
    rig.clock.advance(0.2)
    rig.until("it was ended", lambda: rig.pool.ended == [serial])
    rig.until("it has failed", lambda: rig.states(run).get(State.FAILED) == 1)
    assert rig.reader.attempts(1)[0].outcome == "timeout"


def test_an_attempt_that_is_never_called_is_lost_at_boot_timeout_and_goes_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(boot_timeout=30)
    rig.submit(1)
    rig.until("it was sent", lambda: rig.pool.sent)
    rig.clock.advance(30.1)
    rig.until("it was sent again", lambda: len(rig.pool.sent) == 2)
    assert rig.reader.attempts(1)[0].outcome == "lost"


def learned(rig: Rig) -> None:
    """Teach it that this kind of task is tiny."""
    rig.finish_all(rig.submit(80))


def packed(rig: Rig, run: int) -> list[int]:
    """Serials of a pack of at least three, the current one first."""

    def seen() -> list[int] | None:
        for serials in rig.pool.packs().values():
            if len(serials) == 1:
                rig.pool.finish(serials[0])
        return next((serials for serials in rig.pool.packs().values() if len(serials) > 2), None)

    found: list[int] = rig.until("a pack is on its way", seen)
    return found


def test_a_cancelled_attempt_in_a_pack_is_ended_when_its_turn_comes_at_the_latest_at_its_deadline(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(width=1)
    learned(rig)
    run = rig.submit(200, timeout_s=5.0)
    first, second, *_ = packed(rig, run)
    task = next(request.body["task"] for _, request in rig.pool.sent if request.serial == second)
    rig.do(lambda tx: tx.stop_task(task))
    rig.loop.stop_asked(task)
    rig.rest()
    rig.pool.finish(first)
    rig.rest()
    if second in {serial for serials in rig.pool.packs().values() for serial in serials}:
        rig.pool.call(second, rig.clock.read().mono_s)  # it hangs
        rig.clock.advance(60.0)
        rig.rest()
    rig.clock.advance(0.1)  # ends of short attempts are gathered for a moment
    rig.rest()
    assert rig.reader.task(task).state is State.CANCELLED  # type: ignore[union-attr]


def test_what_a_dying_worker_had_not_begun_takes_the_next_slot_uncharged(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=1)
    learned(rig)
    run = rig.submit(200)
    first, *others = packed(rig, run)
    task = next(request.body["task"] for _, request in rig.pool.sent if request.serial == first)
    rig.pool.call(first, rig.clock.read().mono_s)
    rig.pool.crash(first)
    rig.finish_all(run)
    assert rig.states(run) == {State.SUCCEEDED: 199, State.FAILED: 1}
    assert rig.reader.task(task).outcome == "crashed"  # type: ignore[union-attr]
    assert {attempt.number for number in range(81, 281) for attempt in rig.reader.attempts(number)} == {1}
    assert len(others) > 1


def test_a_drain_gives_back_what_was_claimed_ahead(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=1)
    learned(rig)
    run = rig.submit(200)
    rig.until("some are claimed ahead", lambda: rig.states(run).get(State.RUNNING, 0) > 5)
    rig.loop.drain()
    rig.until("only what runs is claimed", lambda: rig.loop._drained() or len(rig.pool.packs()) == 1)
    while rig.pool.packs():
        rig.pool.finish()
    rig.until("it has drained", rig.loop._drained)
    states = rig.states(run)
    assert State.RUNNING not in states or states[State.RUNNING] == 0
    assert states[State.QUEUED] + states[State.SUCCEEDED] == 200


def test_two_rooms_share_the_slots(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=2)
    one, two = rig.submit(5, room=Room("/one")), rig.submit(5, room=Room("/two"))
    rig.until("both run", lambda: len(rig.pool.packs()) == 2)
    assert {room.cwd for _, room in rig.pool.renewed} == {"/one", "/two"}
    rig.finish_all(one)
    rig.finish_all(two)


def test_slots_that_cannot_be_had_are_the_reason_that_is_given(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=1)
    for slot in (0, 1):
        rig.pool.break_slot(slot, "can't start new thread")
    run = rig.submit(1, room=Room("/elsewhere"))
    rig.rest()
    rig.publish()
    assert rig.pool.sent == []
    assert run in rig.loop.snapshot.holds
    assert "can't start new thread" in rig.loop.snapshot.holds[run].reason
    for slot in (0, 1):
        rig.pool.boot(slot)
    rig.until("it was sent", lambda: rig.pool.sent)


def test_a_worker_is_renewed_when_it_has_served_max_tasks(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=1, max_tasks=3)
    run = rig.submit(10)
    rig.finish_all(run)
    assert len(rig.pool.renewed) >= 2
    assert rig.states(run)[State.SUCCEEDED] == 10


def test_one_that_must_run_alone_goes_again_when_its_worker_was_dead(make_rig: Callable[..., Rig]) -> None:
    """It takes no place among those that were claimed ahead: it would wait for itself, and all others for it."""
    rig = make_rig(width=2, need_memory=100 * MiB, reserve_memory=0)
    run = rig.submit(1, retry_delay_s=0.01)
    for number in range(3):
        rig.until("it was sent", lambda want=number: len(rig.pool.sent) == want + 1)  # type: ignore[misc]
        rig.pool.finish(None, outcome="out_of_memory", value=None, reason="MemoryError")
        rig.until("it was settled, and the loop knows", rig.loop._attempts.empty)
        rig.clock.advance(400.0)
    rig.until("it was sent, to run alone", lambda: len(rig.pool.sent) == 4)
    rig.pool.hand_back()
    rig.until("it was sent again", lambda: len(rig.pool.sent) == 5)
    rig.pool.finish()
    rig.until("it has succeeded", lambda: rig.states(run).get(State.SUCCEEDED) == 1)
    assert [attempt.outcome for attempt in rig.reader.attempts(1)] == [*["out_of_memory"] * 3, "lost", "ok"]


def test_a_task_without_memory_goes_again_with_twice_the_need_and_at_last_alone(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(width=2, need_memory=100 * MiB, reserve_memory=0)
    run = rig.submit(1, retry_delay_s=0.01)
    for number in range(4):
        rig.until(f"try {number + 1} was sent", lambda want=number: len(rig.pool.sent) == want + 1)  # type: ignore[misc]
        rig.pool.finish(None, outcome="out_of_memory", value=None, reason="MemoryError")
        rig.until("it was settled, and the loop knows", rig.loop._attempts.empty)
        rig.clock.advance(400.0)
    rig.until("it has failed", lambda: rig.states(run).get(State.FAILED) == 1)
    assert [attempt.outcome for attempt in rig.reader.attempts(1)] == ["out_of_memory"] * 4


# A store that does not work


def test_a_read_that_fails_is_a_hold_and_is_made_again(make_rig: Callable[..., Rig], monkeypatch: Any) -> None:
    rig = make_rig()
    closed = sqlite3.connect(":memory:")
    closed.close()
    with monkeypatch.context() as broken:
        broken.setattr(rig.loop._reader, "_db", closed)
        run = rig.submit(1)
        rig.until("it was tried", lambda: "closed database" in rig.loop._outbox.trouble)
        rig.rest()
        rig.publish()
        assert "closed database" in rig.loop.snapshot.store
        hold = rig.loop.store_hold()
        assert hold is not None
        assert hold.short == "store"
        assert rig.pool.sent == []
    rig.clock.advance(2.0)
    rig.until("it was sent", lambda: rig.pool.sent)
    rig.finish_all(run)
    rig.clock.advance(1.0)
    rig.until("it is said to be well", lambda: rig.loop.snapshot.store == "ok")


def test_a_deadline_is_kept_though_the_queue_cannot_be_read(make_rig: Callable[..., Rig], monkeypatch: Any) -> None:
    rig = make_rig()
    rig.submit(3, timeout_s=5.0)
    rig.until("two were sent", lambda: len(rig.pool.sent) == 2)
    for _, request in rig.pool.sent:
        rig.pool.call(request.serial, rig.clock.read().mono_s)
    closed = sqlite3.connect(":memory:")
    closed.close()
    monkeypatch.setattr(rig.loop._reader, "_db", closed)
    rig.loop._runs.read_all()
    rig.loop.tick()
    assert rig.loop._outbox.trouble
    rig.clock.advance(6.0)
    rig.until("both were ended", lambda: len(rig.pool.ended) == 2)


def test_what_an_earlier_battd_left_is_written_off_before_anything_starts(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    run = rig.submit(2)
    task = rig.reader.tasks(run, state=None, by_settling=False, after=-1, limit=1)[0].id
    rig.do(lambda tx: tx.claim([values.Wanted(task, 0, None)]))
    ends = recover.ends_of_left(rig.store)
    assert [end.claim.task_id for end in ends] == [task]
    rig.loop.begin_with(ends, StoreUnavailable("disk full"))
    rig.rest()
    assert rig.pool.sent == []
    assert rig.states(run) == {State.RUNNING: 1, State.QUEUED: 1}
    rig.clock.advance(2.0)
    rig.until("both were sent", lambda: len(rig.pool.sent) == 2)
    rig.finish_all(run)
    assert sorted(row.attempt for row in rig.reader.tasks(run, state=None, by_settling=False, after=-1, limit=9)) == [
        1,
        2,
    ]


def test_an_attempt_that_has_returned_is_over_no_limit_and_counts_as_writing(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    run = rig.submit(1, timeout_s=5.0)
    rig.until("it was sent", lambda: rig.pool.sent)
    serial = rig.pool.sent[0][1].serial
    rig.pool.call(serial, rig.clock.read().mono_s)
    rig.pool.give_back(serial, rig.clock.read().mono_s)
    rig.clock.advance(60.0)
    rig.rest()
    rig.publish()
    assert rig.pool.ended == []
    assert len(rig.loop.snapshot.writing) == 1
    rig.pool.finish(serial)
    rig.until("it has ended", lambda: rig.states(run) == {State.SUCCEEDED: 1})


# The wall clock


@pytest.mark.parametrize("by_s", [86_400.0, -86_400.0])
def test_a_wall_clock_that_is_set_is_no_time_that_has_passed(make_rig: Callable[..., Rig], by_s: float) -> None:
    rig = make_rig()
    rig.until("the start is over", lambda: not rig.loop._runs.shifting)
    rig.clock.set_wall(by_s)
    rig.loop.tick()
    assert rig.loop.clockwatch.jumps == 1
    rig.until("all was moved", lambda: not rig.loop._runs.shifting)


def test_a_host_that_slept_has_set_no_clock(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.rest()
    rig.clock.suspend(86_400.0)
    rig.rest()
    assert rig.loop.clockwatch.jumps == 0
