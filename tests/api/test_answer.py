"""Answers: what users gave comes back to the letter."""

import json
from typing import Any

import pytest

from batt_supervisor.api.answer import Stored, answer
from batt_supervisor.wire import LogText, ResultPage, TaskResult


def result(index: int, args: str, value: str) -> TaskResult:
    return TaskResult(
        id=f"t{index}",
        run="r1",
        stage="s",
        index=index,
        key=None,
        args=Stored(args.encode()),
        state="succeeded",
        outcome="ok",
        reason=None,
        attempt=1,
        wall_s=0.5,
        cpu_s=None,
        peak_memory_bytes=7,
        value=Stored(value.encode()),
        error=None,
    )


VALUES = [
    "null",
    "[]",
    '"plain"',
    '"\\ud800 \\u0000"',
    '"stored-0123456789abcdef0123456789abcdef"',
    '"\\"stored-\\""',
    "1e400",
    "[" * 300 + "]" * 300,
    "9" * 5000,
]


@pytest.mark.parametrize("value", VALUES)
def test_a_stored_value_is_passed_on_to_the_letter(value: str) -> None:
    items = tuple(result(number, f"[{number}]", value) for number in range(3))
    body = bytes(answer(ResultPage(items=items, next=None, ended=True)).body)
    assert body.count(b',"value":' + value.encode() + b',"error":null') == 3
    assert b'"args":[1],' in body


def test_an_answer_is_json_in_which_everything_has_its_place() -> None:
    items = tuple(result(number, f'{{"n":{number}}}', f"[{number}]") for number in range(5))
    found: dict[str, Any] = json.loads(answer(ResultPage(items=items, next=7, ended=False)).body)
    assert [(item["index"], item["args"], item["value"]) for item in found["items"]] == [
        (number, {"n": number}, [number]) for number in range(5)
    ]
    assert (found["next"], found["ended"]) == (7, False)


def test_an_answer_without_stored_values_is_json_as_well() -> None:
    found = json.loads(answer(LogText(task="t1", attempt=1, text="\ud800", truncated=False)).body)
    assert found == {"task": "t1", "attempt": 1, "text": "\ud800", "truncated": False}
