"""Every order of moves against a model: the states it says, counts that are true, runs that end when they end."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from batt_supervisor.core.lifecycle import LIVE, SETTLED, Event, State, advance
from batt_supervisor.core.model import Claim, Ending, Outcome, Tries
from batt_supervisor.core.recovery import recover
from batt_supervisor.core.retry import judge
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import Refused
from batt_supervisor.store import moves, prune, submit, values

S = State
BOTH = [S.FAILED, S.CANCELLED]


@dataclass
class Task:
    state: State = S.QUEUED
    attempt: int = 0
    tries: Tries = field(default_factory=Tries)


@dataclass
class Run:
    sealed: bool = False
    closing: Closing | None = None
    tasks: list[int] = field(default_factory=list)
    sent: list[values.NewTask] = field(default_factory=list)


class Moves(RuleBasedStateMachine):
    """Hypothesis calls the rules in any order; `desk.check` looks at every count after each."""

    make_desk: Any = None
    crashes = False

    @initialize(dies_every=st.integers(3, 20))
    def open(self, dies_every: int) -> None:
        self.dies_every = dies_every
        self.folder = tempfile.TemporaryDirectory()
        self.desk = self.make_desk(Path(self.folder.name) / "queue.db")
        self.runs: dict[int, Run] = {}
        self.tasks: dict[int, Task] = {}
        self.settled: list[int] = []

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.desk.close()
            self.folder.cleanup()

    def pick(self, data: st.DataObject, states: Any) -> int | None:
        found = [task_id for task_id, task in self.tasks.items() if task.state in states]
        return data.draw(st.sampled_from(found)) if found else None

    def run_of(self, task_id: int) -> Run:
        return next(run for run in self.runs.values() if task_id in run.tasks)

    def move(self, task_id: int, event: Event) -> State:
        task = self.tasks[task_id]
        task.state = advance(task.state, event)
        if task.state in SETTLED:
            self.settled.append(task_id)
        elif task_id in self.settled:
            self.settled.remove(task_id)
        return task.state

    @rule(stages=st.lists(st.integers(0, 3), min_size=1, max_size=3), seal=st.booleans())
    @precondition(lambda self: len(self.runs) < 4)
    def submit(self, stages: list[int], seal: bool) -> None:
        desk = self.desk
        run_id = desk.do(lambda tx: tx.create_run(desk.new(stages=len(stages), deadline_s=5.0))).id
        whole = [task for stage, number in enumerate(stages) for task in desk.chunk(number, stage)]
        steps = [lambda tx: tx.add_tasks(run_id, 0, whole)]
        desk.group(*steps, *([lambda tx: tx.seal(run_id)] if seal else []))
        run = self.runs[run_id] = Run(sealed=seal, tasks=desk.tasks(run_id), sent=whole)
        for task_id, task in zip(run.tasks, whole, strict=True):
            self.tasks[task_id] = Task(S.WAITING if task.stage else S.QUEUED)

    @rule(data=st.data(), add=st.integers(0, 3), back=st.integers(0, 3), other=st.booleans())
    def add(self, data: st.DataObject, add: int, back: int, other: bool) -> None:
        """A chunk, some of which is there already; or another than what is there."""
        if not self.runs:
            return
        run_id = data.draw(st.sampled_from(sorted(self.runs)))
        run, desk = self.runs[run_id], self.desk
        count = len(run.tasks)
        offset = max(0, count - back)
        fresh = desk.chunk(add, first=count)
        chunk = run.sent[offset:] + fresh
        if other and offset < count:
            chunk[0] = chunk[0]._replace(args='["another"]')
        if (run.sealed and fresh) or (other and offset < count):
            with pytest.raises(Refused):
                desk.do(lambda tx: tx.add_tasks(run_id, offset, chunk))
            return
        assert desk.do(lambda tx: tx.add_tasks(run_id, offset, chunk)).sealed is run.sealed
        now = desk.tasks(run_id)
        assert now[:count] == run.tasks
        assert len(now) == count + add
        for task_id in now[count:]:
            self.tasks[task_id] = Task()
        run.tasks = now
        run.sent += fresh

    @rule(data=st.data())
    def seal_or_give_up(self, data: st.DataObject) -> None:
        found = [run_id for run_id, run in self.runs.items() if not run.sealed]
        if not found:
            return
        run_id = data.draw(st.sampled_from(found))
        if data.draw(st.booleans()):
            self.desk.do(lambda tx: tx.seal(run_id))
            self.runs[run_id].sealed = True
        else:
            while not self.desk.do(lambda tx: tx.discard(run_id)):
                with pytest.raises(Refused, match="given up"):
                    self.desk.do(lambda tx: tx.seal(run_id))
                with pytest.raises(Refused, match="given up"):
                    self.desk.do(lambda tx: tx.add_tasks(run_id, 0, self.desk.chunk(1)))
            for task_id in self.runs.pop(run_id).tasks:
                del self.tasks[task_id]
                self.settled = [one for one in self.settled if one != task_id]

    @rule(data=st.data(), number=st.integers(1, 4))
    def claim(self, data: st.DataObject, number: int) -> None:
        """A batch of claims, some of them of tasks that cannot be had."""
        if not self.tasks:
            return
        wanted = data.draw(
            st.lists(
                st.tuples(st.sampled_from(sorted(self.tasks)), st.booleans()), max_size=number, unique_by=lambda w: w[0]
            )
        )
        expected = set()
        batch = []
        for task_id, right in wanted:
            task = self.tasks[task_id]
            batch.append(values.Wanted(task_id, task.attempt if right else task.attempt + 1, None))
            if right and task.state is S.QUEUED and self.run_of(task_id).sealed:
                expected.add(task_id)
            elif not self.run_of(task_id).sealed:
                batch.pop()  # the daemon never looks at a run that is not sealed
        claimed = self.desk.do(lambda tx: tx.claim(batch))
        assert {one: found.tries for one, found in claimed.items()} == {one: self.tasks[one].tries for one in expected}
        for task_id in expected:
            self.move(task_id, Event.CLAIM)
            self.tasks[task_id].attempt += 1

    @rule(data=st.data(), outcome=st.sampled_from(sorted(Outcome)), number=st.integers(1, 3))
    def settle(self, data: st.DataObject, outcome: Outcome, number: int) -> None:
        """Ends that belong together in one commit, each of another task."""
        desk, steps = self.desk, []
        for _ in range(number):
            task_id = self.pick(data, LIVE)
            if task_id is None or any(task_id == one for one, _ in steps):
                break
            task = self.tasks[task_id]
            limits = desk.new().stages[0].work.limits
            verdict = judge(outcome, task.tries, limits, task_id, together=data.draw(st.booleans()))
            ending = Ending(outcome, value="1" if outcome is Outcome.OK else None)
            steps.append((task_id, desk.settling(Claim(task_id, task.attempt), ending, verdict)))
            task.tries = verdict.tries
            self.move(task_id, verdict.event)
        answers = desk.group(*[step for _, step in steps]) if steps else []
        assert answers == [self.tasks[task_id].state for task_id, _ in steps]

    @rule(data=st.data(), early=st.integers(1, 2))
    def settle_late(self, data: st.DataObject, early: int) -> None:
        """An attempt that the task has moved on without."""
        task_id = self.pick(data, set(State))
        if task_id is None:
            return
        task = self.tasks[task_id]
        late = Claim(task_id, task.attempt - early if task.state in LIVE else task.attempt)
        verdict = judge(Outcome.OK, Tries(), self.desk.new().stages[0].work.limits, 1)
        with pytest.raises(self.desk.Lost):
            self.desk.do(self.desk.settling(late, Ending(Outcome.OK, value="0"), verdict))

    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        task_id = self.pick(data, set(State))
        if task_id is None:
            return
        task = self.tasks[task_id]
        if task.state in SETTLED:
            with pytest.raises(Refused):
                self.desk.do(lambda tx: tx.stop_task(task_id))
            return
        if task.state is S.RUNNING:
            self.move(task_id, Event.STOP)
        elif task.state is not S.STOPPING:
            self.move(task_id, Event.CANCEL)
        assert self.desk.do(lambda tx: tx.stop_task(task_id)) is task.state

    @rule(data=st.data(), why=st.sampled_from(Closing))
    def close_run(self, data: st.DataObject, why: Closing) -> None:
        found = [run_id for run_id, run in self.runs.items() if run.sealed]
        if not found:
            return
        run_id = data.draw(st.sampled_from(found))
        run = self.runs[run_id]
        open_tasks = [task_id for task_id in run.tasks if self.tasks[task_id].state not in SETTLED]
        may = why is Closing.CANCEL or self.desk.reader.run(run_id).deadline_at_ms <= self.desk.now_ms
        assert self.desk.do(lambda tx: tx.ask_close(run_id, why)) == (len(open_tasks) if may else 0)
        if open_tasks and may:
            run.closing = run.closing or why
        waiting = [task_id for task_id in open_tasks if self.tasks[task_id].state not in LIVE]
        closes = waiting if run.closing is why else []
        assert self.desk.do(lambda tx: tx.close_some(run_id, why)) == len(closes)
        for task_id in closes:
            self.move(task_id, Event.CANCEL)

    @rule(data=st.data(), states=st.sets(st.sampled_from(State)), one=st.booleans())
    def retry(self, data: st.DataObject, states: set[State], one: bool) -> None:
        if not self.tasks:
            return
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        run_id = next(run_id for run_id, run in self.runs.items() if task_id in run.tasks)
        run = self.runs[run_id]
        if not run.sealed:
            return
        among = [task_id] if one else run.tasks
        again = [found for found in among if self.tasks[found].state in states and self.tasks[found].state in BOTH]
        if run.closing and any(self.tasks[found].state not in SETTLED for found in run.tasks):
            with pytest.raises(Refused):
                self.desk.do(lambda tx: tx.retry_some(run_id, None, sorted(states)))
            return
        asked = self.desk.do(lambda tx: tx.retry_some(run_id, task_id if one else None, sorted(states)))
        assert asked == len(again)
        for found in again:
            self.move(found, Event.REWAIT if self.row(found)["stage"] else Event.RETRY)
            self.tasks[found].tries = Tries()
        if again and run.closing:
            run.closing = None

    def row(self, task_id: int) -> dict[str, Any]:
        found = self.desk.reader.task(task_id)
        return {"stage": found.stage, "state": found.state}

    @rule(later_s=st.integers(0, 5))
    def let_time_pass(self, later_s: int) -> None:
        self.desk.now_ms += later_s * 1000
        due = [
            row[0]
            for row in self.desk.db.execute(
                "SELECT id FROM tasks WHERE state = 'scheduled' AND run_at_ms <= ?", (self.desk.now_ms,)
            )
        ]
        self.desk.do(moves.promote)
        for task_id in due:
            self.move(task_id, Event.DUE)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        task_id = self.pick(data, {S.WAITING})
        if task_id is None or not self.run_of(task_id).sealed:
            return
        stage = self.row(task_id)["stage"]
        run_id = self.desk.task(task_id).run_id
        waiting = [
            one
            for one in self.run_of(task_id).tasks
            if self.tasks[one].state is S.WAITING and self.row(one)["stage"] == stage
        ]
        assert self.desk.do(lambda tx: tx.release(run_id, stage)) == len(waiting)
        for one in waiting:
            self.move(one, Event.RELEASE)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A run that has ended is gone for everybody with the first word, and its rows soon after."""
        if not self.runs:
            return
        run_id = data.draw(st.sampled_from(sorted(self.runs)))
        run, desk = self.runs[run_id], self.desk
        if not run.sealed or any(self.tasks[task_id].state not in SETTLED for task_id in run.tasks):
            with pytest.raises(Refused, match="has not ended"):
                desk.do(lambda tx: tx.remove_run(run_id, "asked"))
            with pytest.raises(Refused, match="is not going"):
                desk.do(lambda tx: tx.remove_some(run_id))
            return
        assert desk.do(lambda tx: tx.remove_run(run_id, "asked"))
        assert not desk.do(lambda tx: tx.remove_run(run_id, "asked"))
        tasks = 0
        while True:
            assert self.desk.reader.run(run_id) is None
            assert run_id in self.desk.reader.going()
            with pytest.raises(Refused):
                self.desk.do(lambda tx: tx.retry_some(run_id, None, BOTH))
            removed = self.desk.do(lambda tx: tx.remove_some(run_id))
            tasks += removed.tasks
            if removed.done:
                break
        assert tasks == len(run.tasks)
        assert run_id not in self.desk.reader.going()
        del self.runs[run_id]
        for task_id in run.tasks:
            del self.tasks[task_id]
            self.settled = [one for one in self.settled if one != task_id]

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The front of the event log goes, whatever it is about."""
        span = self.desk.reader.events_kept()
        up_to = data.draw(st.integers(0, span.last))
        while self.desk.do(lambda tx: tx.forget_events(up_to)):
            pass
        assert self.desk.reader.events_kept().last == span.last

    @rule()
    def restart(self) -> None:
        """battd goes away and comes back: what ran is written off."""
        self.desk.close()
        self.desk = self.make_desk(self.desk.path)
        found = [recover(attempt, self.desk.new().stages[0].work.limits) for attempt, _ in self.desk.reader.live()]
        assert {one.attempt.claim.task_id for one in found} == {
            task_id for task_id, task in self.tasks.items() if task.state in LIVE
        }
        for one in found:
            assert one.attempt.tries == self.tasks[one.attempt.claim.task_id].tries
            self.desk.do(self.desk.settling(one.attempt.claim, one.ending, one.verdict))
            self.move(one.attempt.claim.task_id, one.verdict.event)
            self.tasks[one.attempt.claim.task_id].tries = one.verdict.tries

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        if not hasattr(self, "desk"):
            return
        self.desk.check()
        rows = self.desk.db.execute("SELECT id, state, attempt FROM tasks").fetchall()
        assert {row[0]: Task(State(row[1]), row[2], self.desk.tries(row[0])) for row in rows} == self.tasks
        assert {run_id: self.desk.reader.run(run_id).closing for run_id in self.runs} == {
            run_id: run.closing for run_id, run in self.runs.items()
        }
        if self.crashes and self.desk.dies_in is None:
            self.desk.dies_in = self.dies_every  # in the middle of what is done next, or soon after
        order = self.desk.db.execute("SELECT id FROM tasks WHERE settled_seq IS NOT NULL ORDER BY settled_seq")
        if not any(run.closing for run in self.runs.values()):  # a bulk move has no order to keep
            assert sorted(row[0] for row in order) == sorted(self.settled)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed goes a task or two at a time."""
    monkeypatch.setattr(submit, "DISCARD_ROWS", 2)
    monkeypatch.setattr(prune, "TASKS_MAX", 2)
    monkeypatch.setattr(prune, "TASKS_AT_ONCE", 1)
    monkeypatch.setattr(prune, "EVENT_ROWS_AT_ONCE", 1)


def drive(make_desk: Any, examples: int, *, crashes: bool) -> type[Moves]:
    class Bound(Moves):
        pass

    Bound.make_desk, Bound.crashes = make_desk, crashes
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=crashes,  # how often it dies is looked at
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Bound


def test_every_order_of_moves_keeps_the_books(make_desk: Any) -> None:
    drive(make_desk, 120, crashes=False)


def test_a_death_between_any_two_statements_leaves_whole_transactions_only(make_desk: Any) -> None:
    """What is on the disk at that instant is opened again: the same books, and the next move is as good as ever."""
    deaths = 0

    class Counting(make_desk):  # type: ignore[misc]
        def close(self) -> None:
            nonlocal deaths
            deaths += self.deaths
            super().close()

    drive(Counting, 20, crashes=True)
    assert deaths > 8, "it hardly ever died: nothing is shown"


@pytest.mark.parametrize("statements", range(16))
def test_a_death_in_the_end_of_an_attempt(desk: Any, statements: int) -> None:
    """Result, end of the attempt, next state, counts and events are there together, or none of them is."""
    run_id = desk.run([1, 1])
    held = desk.claim(desk.tasks(run_id)[0])
    desk.dies_in = statements
    assert desk.settle(held) is S.SUCCEEDED
    assert desk.deaths or statements > 8
    assert desk.states(run_id) == [S.SUCCEEDED, S.WAITING]
    assert desk.task(held.task_id).value == "1"
