"""A real store on disk, and short words for what the daemon does to it."""

import itertools
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest

from batt_supervisor.core.lifecycle import SETTLED, State
from batt_supervisor.core.model import Claim, Ending, Limits, Outcome, Room, Tries, Work
from batt_supervisor.core.retry import Verdict, judge
from batt_supervisor.store import Store, values
from batt_supervisor.store.operations import Operations
from batt_supervisor.store.read import Reader
from batt_supervisor.store.rows import EventRow

T = TypeVar("T")

LIMITS = Limits(timeout_s=60.0, max_attempts=2, retry_delay_s=1.0)


class ClaimLost(Exception):
    """The task has moved on without this attempt, so that nothing of it was written."""

    def __init__(self, task_id: int, attempt: int) -> None:
        super().__init__(f"task t{task_id} is no longer held by its attempt {attempt}")


class Crash(BaseException):
    """The process died here."""


class Dying:
    """The writer's connection of a process that dies before its next statement but so many."""

    def __init__(self, db: sqlite3.Connection, statements: int) -> None:
        self._db, self.left = db, statements

    def _count(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1

    def execute(self, *given: Any) -> sqlite3.Cursor:
        self._count()
        return self._db.execute(*given)

    def executemany(self, *given: Any) -> sqlite3.Cursor:
        self._count()
        return self._db.executemany(*given)


class Desk:
    """A store whose operations are carried out at once, each in a transaction of its own unless `group` is used.

    Attributes:
        now_ms: The wall time of the next transaction.
        dies_in: The process dies before its next statement but so many, BEGIN and COMMIT included, or right behind a
            COMMIT; what it leaves on the disk is opened again, and the transaction is carried out once more if it was
            not committed, as whoever had asked for it would have it done.
        deaths: How often it has died with a transaction open.
        Lost: What an operation on a task raises that is no longer to be had.
    """

    Lost = ClaimLost

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path)
        self.reader: Reader = self.store.reader()
        self.db: sqlite3.Connection = self.store._db
        self.now_ms = 1_700_000_000_000
        self.dies_in: int | None = None
        self.deaths = 0

    def group(self, *operations: Callable[[Operations], Any]) -> list[Any]:
        """What the writer does with operations that came together: one transaction."""
        if self.dies_in is not None:
            before = self.dump()
            dying: Any = Dying(self.db, self.dies_in)
            try:
                return self._commit(dying, operations)
            except Crash:
                self.deaths += 1
            finally:
                self.dies_in = dying.left or None
                if not dying.left:
                    self._open(self._copy())
            assert self.dump() == before, "half a transaction is on the disk"
            self.check()
        return self._commit(self.db, operations)

    def _copy(self) -> Path:
        """The files as they are, which is what the kernel keeps of a process that is killed."""
        folder = self.path.parent / f"died-{self.deaths}-{time.monotonic_ns()}"
        folder.mkdir()
        for end in ("", "-wal"):
            if self.path.with_name(self.path.name + end).exists():
                shutil.copy(self.path.with_name(self.path.name + end), folder)
        return folder / self.path.name

    def _open(self, path: Path) -> None:
        self.reader.close()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self.store.close()
        self.path = path
        self.store = Store(path)
        self.reader = self.store.reader()
        self.db = self.store._db

    def dump(self) -> list[str]:
        """Everything that is in the database."""
        return list(self.db.iterdump())

    def _commit(self, db: sqlite3.Connection, operations: Sequence[Callable[[Operations], Any]]) -> list[Any]:
        db.execute("BEGIN IMMEDIATE")
        try:
            tx = Operations(db, self.now_ms)
            answers = [operation(tx) for operation in operations]
            tx.close()
        except Exception:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return answers

    def do(self, operation: Callable[[Operations], T]) -> T:
        answer: T = self.group(operation)[0]
        return answer

    # Submission

    @staticmethod
    def new(name: str = "run", *, key: str | None = None, stages: int = 1, deadline_s: float | None = None) -> Any:
        """A run; each stage waits for the one before."""
        work = Work(Room("/"), LIMITS, function="zoo:work")
        made = tuple(values.NewStage(f"s{n}", work, (n - 1,) if n else ()) for n in range(stages))
        return values.NewRun(name, key, "/", {}, deadline_s, made)

    @staticmethod
    def chunk(number: int, stage: int = 0, first: int = 0) -> list[values.NewTask]:
        return [values.NewTask(stage, f"[{n}]", None) for n in range(first, first + number)]

    def run(self, tasks: int | Sequence[int] = 1, *, deadline_s: float | None = None, key: str | None = None) -> int:
        """A sealed run with so many tasks (in each of its stages)."""
        numbers = [tasks] if isinstance(tasks, int) else list(tasks)
        run_id = self.do(lambda tx: tx.create_run(self.new(stages=len(numbers), deadline_s=deadline_s, key=key))).id
        whole = [task for stage, number in enumerate(numbers) for task in self.chunk(number, stage)]
        for start in range(0, len(whole), 1000):
            part = whole[start : start + 1000]
            self.do(lambda tx, start=start, part=part: tx.add_tasks(run_id, start, part))  # type: ignore[misc]
        self.do(lambda tx: tx.seal(run_id))
        return run_id

    # Attempts

    @staticmethod
    def claiming(task_id: int, attempt: int = 0) -> Callable[[Operations], Claim]:
        """The operation that claims a task; raises ClaimLost where it is not to be had."""

        def operation(tx: Operations) -> Claim:
            if task_id not in tx.claim([values.Wanted(task_id, attempt, None)]):
                raise ClaimLost(task_id, attempt + 1)
            return Claim(task_id, attempt + 1)

        return operation

    @staticmethod
    def settling(held: Claim, ending: Ending, verdict: Verdict) -> Callable[[Operations], State]:
        """The operation that ends an attempt; raises ClaimLost where it no longer holds its task."""

        def operation(tx: Operations) -> State:
            states = tx.settle([values.Settlement(held, ending, verdict)])
            if held not in states:
                raise ClaimLost(held.task_id, held.attempt)
            return states[held]

        return operation

    def claim(self, task_id: int, attempt: int | None = None) -> Claim:
        return self.do(self.claiming(task_id, self.task(task_id).attempt if attempt is None else attempt))

    def tries(self, task_id: int) -> Tries:
        sql = "SELECT charged, resource, uncharged, starved, crashes, evicted, suspect FROM tasks WHERE id = ?"
        *counts, suspect = self.db.execute(sql, (task_id,)).fetchone()
        return Tries(*counts, suspect=bool(suspect))

    def settle(self, held: Claim, outcome: Outcome = Outcome.OK, **given: Any) -> State:
        """End an attempt as the daemon would."""
        if outcome is Outcome.OK:
            given.setdefault("value", "1")
        verdict = judge(outcome, self.tries(held.task_id), LIMITS, held.task_id, together=given.get("together", False))
        return self.do(self.settling(held, Ending(outcome, **given), verdict))

    def finish(self, task_id: int, outcome: Outcome = Outcome.OK, **given: Any) -> State:
        return self.settle(self.claim(task_id), outcome, **given)

    # Looking

    def task(self, task_id: int) -> Any:
        found = self.reader.task(task_id)
        assert found is not None
        return found

    def tasks(self, run_id: int) -> list[int]:
        return [row[0] for row in self.db.execute("SELECT id FROM tasks WHERE run_id = ? ORDER BY idx", (run_id,))]

    def states(self, run_id: int) -> list[State]:
        rows = self.db.execute("SELECT state FROM tasks WHERE run_id = ? ORDER BY idx", (run_id,))
        return [State(row[0]) for row in rows]

    def ended(self, run_id: int) -> bool:
        row = self.reader.run(run_id)
        assert row is not None
        return row.ended_at_ms is not None

    def check(self) -> None:
        """Every fact that must hold between transactions."""
        # Of a run that is being removed, and seen by nobody, the rows go before the counts.
        seen = "run_id IN (SELECT id FROM runs WHERE NOT going AND (sealed_at_ms IS NOT NULL OR closing IS NULL))"
        tallied = {
            tuple(row[:4]): row[4]
            for row in self.db.execute(
                f"SELECT run_id, stage, state, outcome, count FROM tallies WHERE count AND {seen}"
            )
        }
        settled = ", ".join(f"'{state}'" for state in sorted(SETTLED))
        counted = {
            tuple(row[:4]): row[4]
            for row in self.db.execute(
                f"SELECT run_id, stage, state, iif(state IN ({settled}), coalesce(outcome, ''), ''), count(*) "
                f"FROM tasks WHERE {seen} GROUP BY 1, 2, 3, 4"
            )
        }
        assert tallied == counted
        for run_id, sealed, ended, open_tasks in self.db.execute(
            "SELECT r.id, r.sealed_at_ms, r.ended_at_ms, (SELECT count(*) FROM tasks t WHERE t.run_id = r.id "
            f"AND t.state NOT IN ({settled})) FROM runs r"
        ):
            assert (ended is not None) == (sealed is not None and not open_tasks), f"run {run_id}"
        numbers = [row[0] for row in self.db.execute("SELECT settled_seq FROM tasks WHERE settled_seq IS NOT NULL")]
        assert len(numbers) == len(set(numbers))
        assert max(numbers, default=0) <= self.db.execute("SELECT settled_seq FROM counters").fetchone()[0]
        for row in self.db.execute(
            f"SELECT id, state, outcome, settled_seq FROM tasks WHERE (state IN ({settled})) != "
            f"(settled_seq IS NOT NULL) OR (state IN ({settled}) AND outcome IS NULL)"
        ):
            raise AssertionError(f"settled by halves: {row}")
        for row in self.db.execute(
            "SELECT t.id, t.state, t.attempt, count(a.number), max(a.number), "
            "sum(a.number IS NOT NULL AND a.ended_at_ms IS NULL) FROM tasks t "
            "LEFT JOIN attempts a ON a.task_id = t.id GROUP BY t.id"
        ):
            live = row[1] in ("running", "stopping")
            assert row[2] == row[3] == (row[4] or 0), f"attempts are numbered without a gap: {row}"
            assert (row[5] or 0) == int(live), f"only a live task has an open attempt: {row}"
        self.check_events()
        results = {row[0] for row in self.db.execute("SELECT task_id FROM results")}
        assert results == {row[0] for row in self.db.execute("SELECT id FROM tasks WHERE state = 'succeeded'")}
        named = "SELECT log, count(*) FROM attempts WHERE log_to > log_from GROUP BY log"
        assert dict(self.db.execute("SELECT name, attempts FROM logs")) == dict(self.db.execute(named))

    def check_events(self) -> None:
        """The log has every move once, in order, and each task's story leads to where it stands."""
        page = self.reader.events(0, 1_000)
        log = list(page.events)
        while page.more:
            page = self.reader.events(page.next, 1_000)
            log += page.events
        span = self.reader.events_kept()
        assert [event.seq for event in log] == list(range(span.first or span.last + 1, span.last + 1))
        whole = span.first == 1  # else retention has removed the front of the log
        by_task: dict[int, list[EventRow]] = {}
        for event in log:
            if event.task_id is not None:
                by_task.setdefault(event.task_id, []).append(event)
        for task_id, state, attempt in self.db.execute("SELECT id, state, attempt FROM tasks").fetchall():
            story = self.reader.story(task_id)
            assert story == by_task.get(task_id, [])
            assert all(before.now_is == after.was for before, after in itertools.pairwise(story))
            claims = [event.attempt for event in story if event.event == "claim"]
            assert claims == list(range(attempt + 1 - len(claims), attempt + 1))
            if story:
                assert story[-1].now_is == state
            if whole:
                assert (story[0].event, story[0].was, len(claims)) == ("created", None, attempt)

    def close(self) -> None:
        self.reader.close()
        self.store.close()


BACKENDS = {"sqlite": Desk}
"""Every store there is. Whatever stands behind `store.protocol` one day has a desk here, and passes the same tests."""


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS.keys())
def make_desk(request: pytest.FixtureRequest) -> type[Desk]:
    found: type[Desk] = request.param
    return found


@pytest.fixture
def desk(tmp_path: Path, make_desk: type[Desk]) -> Iterator[Desk]:
    desk = make_desk(tmp_path / "queue.db")
    yield desk
    desk.check()
    desk.close()


class Writing:
    """A store with its writer's thread, as battd has it."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.writer = self.store.writer
        self.committed: list[set[int]] = []
        self.writer.on_commit = self.committed.append
        self.errors: list[BaseException] = []
        self._thread: Thread | None = None

    def start(self) -> None:
        self._thread = Thread(target=self._live, name="writer", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        try:
            self.writer.run()
        except BaseException as error:
            self.errors.append(error)

    def died(self) -> bool:
        """Whether the thread ended by an error, which is the end of battd."""
        return bool(self.errors)

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Look until it is so, or the thread has died of it."""
        until = time.monotonic() + 30
        while not done() and not self.died() and time.monotonic() < until:
            time.sleep(0.001)

    def close(self) -> None:
        self.writer.stop()
        if self._thread is not None:
            self._thread.join(30)
            assert not self._thread.is_alive()
        self.store.close()


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Writing]:
    writing = Writing(tmp_path / "queue.db")
    yield writing
    writing.close()
