from __future__ import annotations

import errno
import socket as sockets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor import client as client_module
from batt_supervisor.chunks import CHUNK_BYTES, CHUNK_TASKS
from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import BadInput, NotAllowed, NotFound, Refused, StoreMissing, StoreUnavailable, Unreachable
from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

SPEC = RunSpec(name="n", cwd="/", stages=(StageSpec(name="s", function="m:f"),))


@pytest.fixture
def client(socket: Path) -> Iterator[Client]:
    with Client(socket, pauses_s=(0, 0, 0), sleep=lambda _s: None) as client:
        yield client


def tasks(count: int) -> Iterator[TaskSpec]:
    return (TaskSpec(args=[n]) for n in range(count))


def test_a_submission_is_sent_in_chunks(client: Client, stub: Any) -> None:
    created = client.submit(SPEC, tasks(CHUNK_TASKS + 3))
    assert (created.run, created.tasks, created.sealed, created.existing) == ("r1", CHUNK_TASKS + 3, True, False)
    assert [(r.body["offset"], len(r.body["tasks"])) for r in stub.sent("POST", "/tasks")] == [
        (0, CHUNK_TASKS),
        (CHUNK_TASKS, 3),
    ]
    assert [task["args"] for task in stub.runs["r1"]["tasks"]] == [[n] for n in range(CHUNK_TASKS + 3)]


def test_large_tasks_are_sent_in_smaller_chunks(client: Client, stub: Any) -> None:
    half = "x" * (CHUNK_BYTES // 2)
    client.submit(SPEC, [TaskSpec(args=[half])] * 3)
    assert [len(r.body["tasks"]) for r in stub.sent("POST", "/tasks")] == [1, 1, 1]


@pytest.mark.parametrize("lost", [("POST", "/runs"), ("POST", "/tasks"), ("POST", "/seal")])
@pytest.mark.parametrize("key", [None, "k"])
def test_a_lost_answer_is_asked_for_again_and_nothing_is_made_twice(
    client: Client, stub: Any, lost: tuple[str, str], key: str | None
) -> None:
    stub.lose[lost] = 2
    created = client.submit(SPEC.model_copy(update={"key": key}), tasks(4))
    assert (created.tasks, created.existing) == (4, False)
    assert list(stub.runs) == ["r1"]
    assert stub.runs["r1"]["sealed"]


def test_a_connection_that_stays_lost_leaves_the_run_to_be_gone_on_with(client: Client, stub: Any) -> None:
    stub.lose["POST", "/tasks"] = 99
    with pytest.raises(Unreachable, match="submit again with the key 'k'"):
        client.submit(SPEC.model_copy(update={"key": "k"}), tasks(4))
    assert list(stub.runs) == ["r1"]
    stub.lose.clear()
    created = client.submit(SPEC.model_copy(update={"key": "k"}), tasks(4))
    assert (created.run, created.tasks, created.existing) == ("r1", 4, True)


def test_a_known_key_gives_the_first_run(client: Client, stub: Any) -> None:
    spec = SPEC.model_copy(update={"key": "k"})
    client.submit(spec, tasks(4))
    again = client.submit(spec, tasks(4))
    assert (again.run, again.tasks, again.existing) == ("r1", 4, True)


def test_a_connection_that_is_lost_beside_a_complete_run_tells_no_tale_of_it(client: Client, stub: Any) -> None:
    spec = SPEC.model_copy(update={"key": "k"})
    client.submit(spec, tasks(4))
    stub.lose["POST", "/tasks"] = 99
    with pytest.raises(Unreachable, match="run r1 is complete; whether it has the same tasks is not known"):
        client.submit(spec, tasks(4))
    assert stub.runs["r1"]["sealed"]


@pytest.mark.parametrize("count", [0, 3, 9])
def test_a_known_key_with_another_number_of_tasks_is_refused(client: Client, stub: Any, count: int) -> None:
    spec = SPEC.model_copy(update={"key": "k"})
    client.submit(spec, tasks(4))
    with pytest.raises(Refused, match="other items"):
        client.submit(spec, tasks(count))
    assert list(stub.runs) == ["r1"], "and what is there stays"
    assert len(stub.runs["r1"]["tasks"]) == 4


def test_submissions_without_a_key_are_different_runs(client: Client, stub: Any) -> None:
    assert [client.submit(SPEC, tasks(1)).run for _ in range(2)] == ["r1", "r2"]


@pytest.mark.parametrize("error", [BadInput("line 3"), KeyboardInterrupt()])
def test_an_error_among_the_tasks_leaves_nothing_behind(client: Client, stub: Any, error: BaseException) -> None:
    def broken() -> Iterator[TaskSpec]:
        yield from tasks(CHUNK_TASKS + 1)
        raise error

    with pytest.raises(type(error)):
        client.submit(SPEC, broken())
    assert stub.sent("POST", "/tasks")
    assert stub.runs == {}


def test_arguments_that_json_cannot_say_leave_nothing_behind(client: Client, stub: Any) -> None:
    with pytest.raises(BadInput, match="task 1 are not JSON"):
        client.submit(SPEC, [TaskSpec(), TaskSpec(args=[float("nan")])])
    assert stub.runs == {}


def test_a_refused_chunk_leaves_nothing_behind(client: Client, stub: Any) -> None:
    stub.refuse("POST", "/v1/runs/r1/tasks", 422, "bad_input", "task 0: too large")
    with pytest.raises(BadInput, match="too large"):
        client.submit(SPEC, tasks(1))
    assert stub.runs == {}


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (422, "bad_input", BadInput),
        (403, "not_allowed", NotAllowed),
        (404, "not_found", NotFound),
        (503, "store_unavailable", StoreUnavailable),
        (503, "store_missing", StoreMissing),
        (409, "refused", Refused),
        (409, "claim_lost", Refused),
        (418, "from_the_future", Refused),
    ],
)
def test_a_problem_becomes_its_exception(
    client: Client, stub: Any, status: int, word: str, kind: type[Exception]
) -> None:
    stub.refuse("GET", "/v1/service", status, word, "so it is")
    with pytest.raises(kind, match="so it is") as caught:
        client.service()
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(500, b"oops", "500: oops"), (200, b"<html>", "not JSON"), (200, b"{}", "not understood")],
)
def test_an_answer_that_is_none_of_ours_is_refused(
    client: Client, stub: Any, status: int, body: bytes, said: str
) -> None:
    stub.on("GET", "/v1/service", body, status)
    with pytest.raises(Refused, match=said):
        client.service()


def test_a_read_is_asked_again_on_a_fresh_connection(
    client: Client, stub: Any, run_info: Callable[..., dict[str, Any]]
) -> None:
    stub.on("GET", "/v1/runs/r7", run_info())
    stub.lose["GET", "/r7"] = 1
    assert client.run("r7").name == "arc"


def test_a_change_that_may_have_happened_is_not_sent_again(client: Client, stub: Any) -> None:
    stub.on("POST", "/v1/runs/r7/retry", {"run": "r7", "tasks": 3})
    stub.lose["POST", "/retry"] = 1
    with pytest.raises(Unreachable, match="closed the connection"):
        client.retry("r7")
    assert len(stub.sent("POST", "/retry")) == 1


def test_a_long_poll_says_what_it_knows(client: Client, stub: Any, run_info: Callable[..., dict[str, Any]]) -> None:
    stub.on("GET", "/v1/runs/r7", run_info())
    client.run("r7", wait_s=99, since=3)
    assert stub.requests[-1].query == {"wait_s": "30.0", "since": "3"}


def test_results_are_read_to_their_end(client: Client, stub: Any, task_result: Callable[..., dict[str, Any]]) -> None:
    def page(request: Any) -> tuple[int, Any]:
        after = int(request.query.get("after", -1))
        items = [task_result(index) for index in range(after + 1, min(after + 3, 5))]
        return 200, {"items": items, "next": after + 2 if items else None, "ended": False}

    stub.routes["GET", "/v1/runs/r7/results"] = page
    assert [r.index for r in client.all_results("r7", state=State.SUCCEEDED)] == [0, 1, 2, 3, 4]
    assert {r.query["state"] for r in stub.requests} == {"succeeded"}


def test_a_missing_socket_is_named_with_what_to_do(client: Client, socket: Path) -> None:
    with pytest.raises(
        Unreachable, match=rf"{socket} does not exist; start it with `battd --state-dir {socket.parent}`"
    ):
        client.service()


def test_a_socket_that_nobody_listens_on_is_named(client: Client, socket: Path) -> None:
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(socket))
        with pytest.raises(Unreachable, match=f"no battd listens on {socket}"):
            client.submit(SPEC, tasks(1))


def test_a_file_in_the_place_of_the_socket_is_named(client: Client, socket: Path) -> None:
    socket.write_text("")
    with pytest.raises(Unreachable, match="is not a socket"):
        client.service()


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with Client(tmp_path / ("x" * 120)) as client, pytest.raises(Unreachable, match="too long for a unix socket"):
        client.service()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, "may not be used by this user"), (errno.EAGAIN, "takes no connection")]
)
def test_why_a_connection_is_refused_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def connect(self: object, path: str) -> None:
        raise OSError(number, "so it is")

    monkeypatch.setattr(client_module.socket_module, "socket", type("Probe", (sockets.socket,), {"connect": connect}))
    with pytest.raises(Unreachable, match=said):
        client.service()
