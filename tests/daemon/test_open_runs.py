"""What the loop keeps in mind of an open run's queue: a window on it, whatever is on its way to the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batt_supervisor.clock import Now
from batt_supervisor.core.lifecycle import Event, State
from batt_supervisor.core.model import Claim, Ending, Head, Limits, Outcome, Room, Tries, Work
from batt_supervisor.core.retry import Verdict
from batt_supervisor.core.world import Closing
from batt_supervisor.daemon.outbox import Inbox, Outbox
from batt_supervisor.daemon.runs import WINDOW, OpenRuns
from batt_supervisor.store import Store, values
from batt_supervisor.testing import eventually

NOW = Now(0.0, 0)


class Queue:
    """One run in a real store, and the loop's window on it."""

    def __init__(self, folder: Path, stages: list[int]) -> None:
        self.store = Store(folder / "queue.db")
        self._thread = Thread(target=self.store.writer.run)
        self._thread.start()
        self.reader = self.store.reader()
        self.inbox = Inbox()
        work = Work(Room("/"), Limits(timeout_s=60.0, max_attempts=1, retry_delay_s=1.0), function="m:f")
        new = values.NewRun(
            "run", None, "/", {}, None, tuple(values.NewStage(f"s{n}", work) for n in range(len(stages)))
        )
        self.run_id: int = self.write(lambda tx: tx.create_run(new)).id
        tasks = [values.NewTask(stage, "[]") for stage, count in enumerate(stages) for _ in range(count)]
        self.write(lambda tx: tx.add_tasks(self.run_id, 0, tasks))
        self.write(lambda tx: tx.seal(self.run_id))
        self.outbox = Outbox(self.store.writer, self.inbox)
        self.runs = OpenRuns(self.reader, self.outbox)
        self.store.writer.on_commit = self.runs.touched
        self.runs.catch_up()
        self.taken: dict[int, Head] = {}

    def write(self, operation: Any) -> Any:
        return self.store.writer.submit(operation).result(30)

    def heads(self) -> list[Head]:
        return list(self.runs.heads(self.taken).get(self.run_id, ()))

    def take(self, heads: list[Head]) -> None:
        """As the loop does with those that it claims: the store does not know of it yet."""
        for head in heads:
            assert head.task_id not in self.taken
            self.taken[head.task_id] = head
            self.runs.take(head, NOW)

    def claim(self) -> None:
        """The claims of all that were taken are written."""
        wanted = [values.Wanted(head.task_id, head.attempt, None) for head in self.taken.values()]
        self.write(lambda tx: tx.claim(wanted))

    def round(self) -> None:
        """What the loop does in each of its own."""
        self.inbox.read(NOW)
        self.runs.catch_up()
        self.runs.tidy(NOW, set())
        self.heads()
        self.outbox.flush()

    def close(self) -> None:
        self.store.writer.stop()
        self._thread.join(30)
        self.reader.close()
        self.store.close()
        self.inbox.close()


@pytest.fixture
def make_queue(tmp_path: Path) -> Iterator[Any]:
    made: list[Queue] = []

    def make(*stages: int) -> Queue:
        made.append(Queue(tmp_path, list(stages)))
        return made[-1]

    yield make
    for queue in made:
        queue.close()


@pytest.mark.parametrize("claimed", [False, True])
def test_all_of_a_queue_is_seen_once_whether_or_not_claims_are_on_disk(make_queue: Any, claimed: bool) -> None:
    queue = make_queue(3 * WINDOW + 5)
    seen = []
    while heads := queue.heads():
        seen += [head.index for head in heads]
        assert len(heads) <= WINDOW
        queue.take(heads)
        if claimed:
            queue.claim()
    assert seen == list(range(3 * WINDOW + 5))


def test_all_stages_are_seen_once_though_one_is_held(make_queue: Any) -> None:
    """The tasks of the first stage may not start, and stay in the window."""
    queue = make_queue(10, 2 * WINDOW + 3, 1)
    seen = []
    while ready := [head for head in queue.heads() if head.stage > 0]:
        seen += [head.index for head in ready]
        queue.take(ready)
    assert sorted(seen) == list(range(10, 10 + 2 * WINDOW + 4))
    assert [head.index for head in queue.heads()] == list(range(10))


def test_what_is_queued_again_is_seen_again_before_the_rest(make_queue: Any) -> None:
    queue = make_queue(2 * WINDOW)
    first = queue.heads()
    queue.take(first)
    lost = first[3].task_id  # its claim did not come to pass
    del queue.taken[lost]
    queue.runs.queued(queue.run_id)
    heads = queue.heads()
    assert heads[0].task_id == lost
    queue.take(heads)
    queue.claim()
    rest = queue.heads()
    queue.take(rest)
    queue.claim()
    assert queue.heads() == []
    assert len(queue.taken) == 2 * WINDOW


def test_a_run_whose_tasks_somebody_has_queued_again_is_read_from_its_front(make_queue: Any) -> None:
    queue = make_queue(3)
    queue.take(queue.heads())
    queue.claim()
    assert queue.heads() == []
    first, *_ = queue.taken
    ends = [
        values.Settlement(Claim(task, 1), Ending(Outcome.EXCEPTION), Verdict(Event.FAIL, Tries()))
        for task in queue.taken
    ]
    queue.write(lambda tx: tx.settle(ends))
    queue.taken.clear()
    queue.write(lambda tx: tx.retry_some(queue.run_id, first, [State.FAILED]))
    queue.runs.read(queue.run_id)
    queue.runs.catch_up()
    assert [head.task_id for head in queue.heads()] == [first]


def test_however_many_stages_there_are_all_of_each_is_seen(make_queue: Any) -> None:
    """Of many stages only a few tasks each are read at once, and most of them are held."""
    queue = make_queue(*[1] * 99, 3 * WINDOW)
    seen: list[int] = []
    while ready := [head for head in queue.heads() if head.stage == 99]:
        seen += [head.index for head in ready]
        queue.take(ready)
    assert seen == list(range(99, 99 + 3 * WINDOW))
    assert [head.stage for head in queue.heads()] == list(range(99))


def test_a_task_that_is_queued_again_beside_the_closing_of_its_run_is_cancelled_as_well(make_queue: Any) -> None:
    """Its end is written in the same transaction as the step that found nothing left to cancel."""
    queue = make_queue(1)
    queue.take(queue.heads())
    queue.claim()
    (task,) = queue.taken
    queue.taken.clear()
    queue.write(lambda tx: tx.ask_close(queue.run_id, Closing.CANCEL))
    queue.runs.read(queue.run_id)
    queue.runs.catch_up()
    queue.runs.tidy(NOW, {queue.run_id})
    again = values.Settlement(Claim(task, 1), Ending(Outcome.LOST), Verdict(Event.AGAIN, Tries()))
    queue.outbox.write(lambda tx: tx.settle([again]), lambda states, now: queue.runs.queued(queue.run_id))
    queue.outbox.flush()

    def ended() -> bool:
        queue.round()
        return queue.reader.run(queue.run_id).ended_at_ms is not None

    eventually("the run ends", ended)
    assert queue.reader.task(task).state is State.CANCELLED
