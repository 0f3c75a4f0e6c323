"""Bodies of a submission's requests: made ahead of their turn; what is wrong with one is told when it is its turn."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.chunks import CHUNK_BYTES, CHUNK_TASKS, Chunks
from batt_supervisor.client import Client
from batt_supervisor.errors import BadInput
from batt_supervisor.wire import CHUNK, RunSpec, StageSpec, TaskChunk, TaskSpec

SPEC = RunSpec(name="n", cwd="/", stages=(StageSpec(name="s", function="m:f"),))


def test_every_task_is_in_them_as_it_was_given() -> None:
    tasks = [
        TaskSpec(args=[1, 2.5, None, True, "é\u2028\x00"]),
        TaskSpec(args={"a": {"b": [[], {}]}, '"': "\\"}, key="k\u00e9y"),
        TaskSpec(stage=3),
        TaskSpec(args=[2**80, -0.0, 1e-300], key=""),
    ]
    (body,) = Chunks(tasks)
    read = TaskChunk.model_validate_json(body)
    assert (read.offset, [TaskSpec.model_validate(task) for task in read.tasks]) == (0, tasks)


@pytest.mark.parametrize("count", [0, 1, CHUNK_TASKS - 1, CHUNK_TASKS, CHUNK_TASKS + 1, 2 * CHUNK_TASKS])
def test_none_has_more_than_a_request_may_have(count: int) -> None:
    bodies = [json.loads(body) for body in Chunks(TaskSpec(args=[n]) for n in range(count))]
    assert CHUNK_TASKS <= CHUNK
    assert [body["offset"] for body in bodies] == list(range(0, count, CHUNK_TASKS))
    assert [task["args"] for body in bodies for task in body["tasks"]] == [[n] for n in range(count)]


def test_none_is_larger_than_it_should_be_unless_a_single_task_is() -> None:
    sizes = [10, CHUNK_BYTES // 2, CHUNK_BYTES // 2, 10, 2 * CHUNK_BYTES, 10]
    bodies = list(Chunks(TaskSpec(args=["x" * size]) for size in sizes))
    assert [len(json.loads(body)["tasks"]) for body in bodies] == [2, 2, 1, 1]
    assert all(len(body) < CHUNK_BYTES + 100 for body in bodies if len(json.loads(body)["tasks"]) > 1)


def test_one_that_was_prepared_is_made_once_and_no_further_one_with_it() -> None:
    read: list[int] = []

    def tasks() -> Iterator[TaskSpec]:
        for number in range(3 * CHUNK_TASKS):
            read.append(number)
            yield TaskSpec(args=[number])

    chunks = Chunks(tasks())
    assert read == []
    chunks.prepare()
    chunks.prepare()
    assert len(read) == CHUNK_TASKS + 1
    assert json.loads(next(chunks))["offset"] == 0
    assert len(read) == CHUNK_TASKS + 1
    assert [json.loads(body)["offset"] for body in chunks] == [CHUNK_TASKS, 2 * CHUNK_TASKS]


@pytest.mark.parametrize("wrong", [TaskSpec.model_construct(args=[{1}]), TaskSpec(args=[float("inf")])])
def test_arguments_that_are_not_json_are_told_in_their_turn(wrong: TaskSpec) -> None:
    chunks = Chunks([*(TaskSpec(args=[n]) for n in range(CHUNK_TASKS)), TaskSpec(), wrong])
    assert json.loads(next(chunks))["offset"] == 0
    chunks.prepare()
    with pytest.raises(BadInput, match=f"the arguments of task {CHUNK_TASKS + 1} are not JSON: "):
        next(chunks)


def test_a_value_that_contains_itself_is_not_json() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadInput, match="the arguments of task 0 are not JSON: "):
        next(Chunks([TaskSpec.model_construct(stage=0, args=loop, key=None)]))


def test_the_next_one_is_made_before_the_answer_is_waited_for(socket: Path, stub: Any) -> None:
    ahead = threading.Event()

    def tasks() -> Iterator[TaskSpec]:
        for number in range(2 * CHUNK_TASKS):
            if number == CHUNK_TASKS + 1:
                ahead.set()
            yield TaskSpec(args=[number])

    seen: list[bool] = []

    def when_it_was_made(request: Any) -> Any:
        seen.append(ahead.wait(30))
        return stub._submission(request)

    stub.routes["POST", "/v1/runs/r1/tasks"] = when_it_was_made
    with Client(socket) as client:
        assert client.submit(SPEC, tasks()).tasks == 2 * CHUNK_TASKS
    assert seen == [True, True]


def test_the_answer_to_the_last_one_comes_before_what_is_wrong_with_the_next(socket: Path, stub: Any) -> None:
    stub.refuse("POST", "/v1/runs/r1/tasks", 422, "bad_input", "task 7: too large")
    wrong = [*(TaskSpec(args=[n]) for n in range(CHUNK_TASKS + 1)), TaskSpec(args=[float("nan")])]
    with Client(socket) as client, pytest.raises(BadInput, match="task 7: too large"):
        client.submit(SPEC, wrong)
    assert stub.runs == {}
