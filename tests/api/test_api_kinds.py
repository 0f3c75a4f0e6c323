"""What was learned of kinds of tasks, over HTTP; and a submission that asks for more than the machine has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.model import Space
from batt_supervisor.core.needs import Learned
from batt_supervisor.store import Store, kinds
from batt_supervisor.store.operations import Operations

Ask = Callable[..., tuple[int, Any]]
MIB = 2**20

LEARNED = [
    Learned("zoo:few", 2, (300 * MIB, 10 * MIB), (None, 9)),
    Learned("zoo:many", 70, (100 * MIB,) * 5, (1,) * 5),
    Learned("zoo:unseen", 1),
]


@pytest.fixture
def ask(tmp_path: Path, serve: Callable[..., Any]) -> Ask:
    store = Store(tmp_path / "queue.db")
    for at_ms, learned in enumerate(LEARNED):
        store._db.execute("BEGIN IMMEDIATE")
        kinds.save(Operations(store._db, at_ms), [learned])
        store._db.execute("COMMIT")
    asked = serve(store, total=lambda: Space(2**30, 1000))

    def answered(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        found = asked(method, path, body)
        return found.status_code, found.json() if found.content else None

    return answered


def test_kinds_are_shown_the_latest_first_with_what_the_next_attempt_is_expected_to_take(ask: Ask) -> None:
    status, found = ask("GET", "/v1/kinds")
    fields = ("memory_need_bytes", "threads_need", "memory_peak_bytes", "threads_peak")
    assert status == 200
    assert {one["kind"]: (one["attempts"], one["learned"], *(one[name] for name in fields)) for one in found} == {
        "zoo:few": (2, False, 330 * MIB, 10, 300 * MIB, 9),
        "zoo:many": (70, True, 110 * MIB, 2, 100 * MIB, 1),
        "zoo:unseen": (1, False, 128 * MIB, 4, 0, 0),
    }
    assert [one["kind"] for one in found] == ["zoo:unseen", "zoo:many", "zoo:few"]


def asking(need: int) -> dict[str, Any]:
    return {"name": "n", "cwd": "/", "stages": [{"name": "s", "command": ["ls"], "need_memory_bytes": need}]}


@pytest.mark.parametrize("path", ["/v1/check", "/v1/runs"])
def test_more_than_the_machine_has_is_refused(ask: Ask, path: str) -> None:
    status, answer = ask("POST", path, asking(2**30))
    assert (status, answer["error"]) == (422, "bad_input")
    assert "need_memory (1.0 GiB) is more than this machine has for tasks: 896.0 MiB" in answer["message"]


def test_what_the_machine_has_is_taken(ask: Ask) -> None:
    assert ask("POST", "/v1/check", asking(896 * MIB)) == (204, None)
