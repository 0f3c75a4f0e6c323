"""Results over HTTP: what a task gave comes through as it was stored, and a file that is gone is one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import Event
from batt_supervisor.core.model import Claim, Ending, Limits, Outcome, Room, Tries, Work
from batt_supervisor.core.retry import Verdict
from batt_supervisor.store import Store, values
from batt_supervisor.store.operations import Operations

Get = Callable[[str], tuple[int, Any]]

VALUES = ['{"a":[1.50,"\\ud800"]}', "null", "[" * 300 + "]" * 300, "9" * 5000]


@pytest.fixture
def get(tmp_path: Path, serve: Callable[..., Any]) -> Get:
    """The API over a run of four tasks that have these values, and a fifth whose value is in a file."""
    store = Store(tmp_path / "queue.db")
    work = Work(Room("/"), Limits(1.0), function="m:f")

    def write(tx: Operations) -> None:
        run_id = tx.create_run(values.NewRun("r", None, "/", {}, None, (values.NewStage("s", work),))).id
        tx.add_tasks(run_id, 0, [values.NewTask(0, f"[{number}]") for number in range(len(VALUES) + 1)])
        tx.seal(run_id)
        endings = [*(Ending(Outcome.OK, value=value) for value in VALUES), Ending(Outcome.OK, value_file="5-1.json")]
        for task_id, ending in enumerate(endings, 1):
            tx.claim([values.Wanted(task_id, 0, None)])
            verdict = Verdict(Event.SUCCEED, Tries())
            tx.settle([values.Settlement(Claim(task_id, 1), ending, verdict)])

    store._db.execute("BEGIN IMMEDIATE")
    transaction = Operations(store._db, 1)
    write(transaction)
    transaction.close()
    store._db.execute("COMMIT")
    asked = serve(store)

    def answered(path: str) -> tuple[int, Any]:
        answer = asked("GET", path)
        return answer.status_code, answer.content

    return answered


def test_values_come_through_to_the_letter(get: Get, tmp_path: Path) -> None:
    (tmp_path / "5-1.json").write_text('"' + "x" * 1_000_000 + '"')
    status, page = get("/v1/runs/r1/results")
    assert status == 200
    for value in [*VALUES, (tmp_path / "5-1.json").read_text()]:
        assert b'"value":' + value.encode() + b',"error":null}' in page
    assert [item["args"] for item in json.loads(page.replace(b"9" * 5000, b"9"))["items"]] == [[n] for n in range(5)]
    status, task = get("/v1/tasks/t1")
    assert status == 200
    assert json.loads(task)["task"]["value"] == {"a": [1.5, "\ud800"]}


def test_a_page_ends_where_it_is_large_enough(get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from batt_supervisor.api import app

    (tmp_path / "5-1.json").write_text("1")
    monkeypatch.setattr(app, "PAGE_BYTES", 500)
    sizes, after = [], -1
    while after is not None:
        page = json.loads(get(f"/v1/runs/r1/results?after={after}")[1].replace(b"9" * 5000, b"9"))
        sizes.append(len(page["items"]))
        after = page["next"]
    assert sizes == [3, 1, 1]


@pytest.mark.parametrize("path", ["/v1/runs/r1/results", "/v1/tasks/t5"])
def test_a_result_whose_file_is_gone_is_told_with_its_task(get: Get, path: str) -> None:
    status, body = get(path)
    assert status == 404
    assert json.loads(body) == {
        "error": "not_found",
        "message": "the result of task t5 cannot be read: No such file or directory",
    }
