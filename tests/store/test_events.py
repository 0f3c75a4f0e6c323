"""The event log: what is written down, from any position, and one task's story. `Desk.check_events` does the rest."""

from dataclasses import replace
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Outcome
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import Refused
from batt_supervisor.store import events, submit


def told(desk: Any, task_id: int) -> list[tuple[Any, ...]]:
    return [
        (event.event, event.was, event.now_is, event.attempt, event.outcome) for event in desk.reader.story(task_id)
    ]


def test_a_task_that_goes_again_and_succeeds(desk: Any) -> None:
    run_id = desk.run()
    (task,) = desk.tasks(run_id)
    desk.finish(task, Outcome.EXCEPTION, reason="ValueError: no")
    desk.now_ms += 3_600_000
    desk.do(lambda tx: tx.promote())
    desk.finish(task)
    assert told(desk, task) == [
        ("created", None, "queued", None, None),
        ("claim", "queued", "running", 1, None),
        ("later", "running", "scheduled", 1, "exception"),
        ("due", "scheduled", "queued", 1, None),
        ("claim", "queued", "running", 2, None),
        ("succeed", "running", "succeeded", 2, "ok"),
    ]
    story = desk.reader.story(task)
    assert story[2].reason == "ValueError: no"
    assert story[3].at_ms - story[2].at_ms == 3_600_000


def test_a_task_that_is_stopped_and_retried(desk: Any) -> None:
    (task,) = desk.tasks(desk.run())
    held = desk.claim(task)
    desk.do(lambda tx: tx.stop_task(task))
    desk.settle(held, Outcome.CANCELLED)
    desk.do(lambda tx: tx.retry_some(desk.task(task).run_id, task, [State.CANCELLED]))
    assert [event.event for event in desk.reader.story(task)] == ["created", "claim", "stop", "cancel", "retry"]
    assert desk.reader.story(task)[2].reason == "somebody asked"


def test_what_happens_to_a_run(desk: Any) -> None:
    run_id = desk.run(2)
    desk.do(lambda tx: tx.ask_close(run_id, Closing.CANCEL))
    while desk.do(lambda tx: tx.close_some(run_id, Closing.CANCEL)):
        pass
    desk.do(lambda tx: tx.retry_some(run_id, None, [State.CANCELLED]))
    of_run = [event for event in desk.reader.events(0, 100).events if event.task_id is None]
    assert [(event.event, event.now_is) for event in of_run] == [
        ("created", "receiving"),
        ("sealed", "running"),
        ("closing", None),
        ("ended", "cancelled"),
        ("reopened", "running"),
    ]
    assert of_run[2].reason == "cancelled"


def test_a_submission_that_was_given_up_is_told(desk: Any) -> None:
    run_id = desk.do(lambda tx: tx.create_run(desk.new())).id
    desk.do(lambda tx: tx.discard(run_id))
    assert [event.event for event in desk.reader.events(0, 9, run_id).events] == ["created", "discarded"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_of_any_size_give_every_event_once(desk: Any, limit: int) -> None:
    run_id = desk.run([3, 2])
    for task in desk.tasks(run_id)[:3]:
        desk.finish(task)
    desk.do(lambda tx: tx.release(run_id, 1))
    whole = desk.reader.events(0, 1000)
    assert not whole.more
    assert len(whole.events) > 12
    found, page = [], desk.reader.events(0, limit)
    while page.events:
        found += page.events
        assert page.more == (found[-1].seq < whole.events[-1].seq)
        page = desk.reader.events(page.next, limit)
    assert tuple(found) == whole.events


def test_a_run_is_found_among_others_though_one_look_is_short(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOKED_MAX", 3)
    first = desk.run(1)
    for _ in range(5):
        desk.run(4)
    desk.finish(desk.tasks(first)[0])
    found, after, looks = [], 0, 0
    while True:
        page = desk.reader.events(after, 100, first)
        found += [event.event for event in page.events]
        after, looks = page.next, looks + 1
        if not page.more:
            break
    assert found == ["created", "created", "sealed", "claim", "succeed", "ended"]
    assert looks > 3


def test_tasks_of_several_stages_are_created_as_what_they_are(desk: Any) -> None:
    run_id = desk.run([2, 3])
    created = [event for event in desk.reader.events(0, 100).events if event.event == "created" and event.task_id]
    assert [(event.task_id, event.now_is) for event in created] == [
        (task, "queued" if place < 2 else "waiting") for place, task in enumerate(desk.tasks(run_id))
    ]


def test_what_an_operation_that_failed_wrote_down_is_forgotten(writing: Any, make_desk: Any) -> None:
    def fail(tx: Any) -> None:
        tx.note("clock", "never happened")
        raise Refused("not today")

    writing.start()
    made = writing.writer.submit(lambda tx: tx.create_run(make_desk.new()))
    failing = writing.writer.submit(fail)
    after = writing.writer.submit(lambda tx: tx.note("clock", "happened"))
    made.result(30)
    assert isinstance(failing.exception(30), Refused)
    after.result(30)
    reader = writing.store.reader()
    found = reader.events(0, 100).events
    reader.close()
    assert [(event.seq, event.event, event.reason) for event in found] == [
        (1, "created", "run"),
        (2, "clock", "happened"),
    ]


def test_the_story_of_a_task_whose_first_events_are_gone_begins_later(desk: Any) -> None:
    (task,) = desk.tasks(desk.run())
    desk.claim(task)
    desk.db.execute("DELETE FROM events WHERE first < (SELECT max(first) FROM events)")
    try:
        assert [event.event for event in desk.reader.story(task)] == ["claim"]
        assert desk.reader.events_kept().first == desk.reader.events(0, 9).events[0].seq
    finally:
        desk.db.execute("DELETE FROM tasks")  # `check` wants whole stories
        desk.db.execute("DELETE FROM runs")


def test_a_task_from_before_there_were_events_has_no_story_yet(desk: Any) -> None:
    (task,) = desk.tasks(desk.run())
    desk.db.execute("UPDATE tasks SET event_seq = NULL")
    assert desk.reader.story(task) == []
    desk.claim(task)
    assert [event.event for event in desk.reader.story(task)] == ["claim"]
    desk.db.execute("DELETE FROM runs")


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("cwd", {"cwd": "/tmp"}),
        ("env", {"env": {"A": "1"}}),
        ("seed", {"seed": 7}),
        ("deadline", {"deadline_s": 9.0}),
        ("name", {"name": "other"}),
    ],
)
def test_a_key_stands_for_one_submission_only(desk: Any, what: str, other: dict[str, Any]) -> None:
    first = desk.new(key="k")
    run_id = desk.do(lambda tx: submit.create_run(tx, first)).id
    assert desk.do(lambda tx: submit.create_run(tx, first)).existing
    with pytest.raises(Refused, match=f"'k' belongs to run r{run_id}, which was submitted with another {what}"):
        desk.do(lambda tx: submit.create_run(tx, replace(first, **other)))


def test_a_unique_name_is_a_key_as_well(desk: Any) -> None:
    plain = desk.new("weekly")
    run_id = desk.do(lambda tx: tx.create_run(plain)).id
    assert desk.do(lambda tx: tx.create_run(plain)).id != run_id
    unique = replace(plain, unique_name=True, key="fresh")
    found = desk.do(lambda tx: tx.create_run(unique))
    assert found.existing
    assert found.id == run_id + 1
    with pytest.raises(Refused, match="the name 'weekly' belongs to run"):
        desk.do(lambda tx: tx.create_run(replace(unique, seed=1)))
