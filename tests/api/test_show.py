"""Rows of the store as the API shows them."""

import json
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.api import show
from batt_supervisor.api.answer import Stored
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Limits, Room, Work
from batt_supervisor.errors import NotFound
from batt_supervisor.store.rows import StageRow, TallyRow, TaskRow

STAGE = StageRow(0, "s0", Work(Room("/"), Limits(1.0), function="zoo:f"), ())


def task(**given: Any) -> TaskRow:
    facts: dict[str, Any] = {
        "id": 12, "run_id": 3, "idx": 0, "stage": 0, "key": None,
        "args": '{"a":1}', "state": State.SUCCEEDED, "attempt": 1,
        "outcome": "ok", "reason": "", "settled_seq": 1,
        "wall_s": 0.5, "cpu_s": 0.25, "peak_memory_bytes": 7,
        "error": None, "value": "[1]", "file": None,
    }  # fmt: skip
    return TaskRow(**facts | given)


def test_counts_are_kept_by_state_and_those_of_settled_tasks_by_outcome() -> None:
    tallies = [
        TallyRow(0, State.QUEUED, "", 3),
        TallyRow(1, State.QUEUED, "", 4),
        TallyRow(0, State.FAILED, "timeout", 1),
        TallyRow(1, State.FAILED, "crashed", 2),
        TallyRow(1, State.SUCCEEDED, "ok", 5),
    ]
    assert show.counted(tallies) == (
        {State.QUEUED: 7, State.FAILED: 3, State.SUCCEEDED: 5},
        {"timeout": 1, "crashed": 2, "ok": 5},
    )


def test_a_result_in_the_row_is_shown() -> None:
    found = show.task_result(task(), STAGE, Path("/nowhere"))
    assert (found.id, found.run, found.reason) == ("t12", "r3", None)
    assert (found.args, found.value) == (Stored(b'{"a":1}'), Stored(b"[1]"))


def test_a_result_in_a_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "12-1.json").write_text('{"large":true}')
    found = show.task_result(task(value=None, file="12-1.json"), STAGE, tmp_path)
    assert found.value == Stored(b'{"large":true}')
    assert show.size_of(found) == len('{"a":1}{"large":true}')


def test_a_result_whose_file_is_gone_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="the result of task t12 cannot be read: No such file or directory"):
        show.task_result(task(value=None, file="12-1.json"), STAGE, tmp_path)


@pytest.mark.parametrize(
    ("state", "shown"),
    [(State.FAILED, True), (State.SCHEDULED, True), (State.CANCELLED, True), (State.SUCCEEDED, False)],
)
def test_the_last_error_is_shown_unless_the_task_succeeded_in_the_end(state: State, shown: bool) -> None:
    error = json.dumps({"type": "zoo.Bad", "message": "no", "traceback": ""})
    found = show.task_result(task(state=state, value=None, error=error), STAGE, Path("/nowhere"))
    assert (found.error is not None) is shown


def test_a_null_result_is_a_result() -> None:
    assert show.task_result(task(value="null"), STAGE, Path("/nowhere")).value == Stored(b"null")
