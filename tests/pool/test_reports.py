"""What a worker says is believed only where a worker could have said it; whatever else lies there costs one attempt."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hands import Hands

from batt_supervisor.pool import reports
from batt_supervisor.testing import eventually

STAMP = [1, 2, 3, 4]
DEEP = "[" * 100_000


def text_of(number: int, **changes: Any) -> str:
    """The report of the first attempt of the task that has its request's number."""
    told = {"serial": number, "outcome": "ok", "value": "1", "wall_s": 0.1, "cpu_s": 0, "log": [0, 0, 0], **changes}
    return json.dumps(told)


def read(**changes: Any) -> reports.Report:
    return reports.read(text_of(7, **changes).encode(), 7, "7-1")


def test_what_a_worker_says_is_believed() -> None:
    found = read(modules={"/a": STAMP, "/\udcff": STAMP}, file="7-1.json", modules_file="modules-7-1.json")
    assert found.modules == {"/a": (1, 2, 3, 4), "/\udcff": (1, 2, 3, 4)}
    assert (found.told["file"], found.modules_file) == ("7-1.json", "modules-7-1.json")
    assert reports.read_modules(b'{"/a": [1, 2, 3, 4]}') == {"/a": (1, 2, 3, 4)}


MODULES = {
    "a list": [],
    "no stamp": {"/a": 1},
    "a short stamp": {"/a": [1, 2, 3]},
    "a stamp of texts": {"/a": ["1", "2", "3", "4"]},
    "a stamp by name": {"/a": {"0": 1, "1": 2, "2": 3, "3": 4}},
    "NUL in a name": {"/a\0b": STAMP},
    "no such bytes": {"/\ud800": STAMP},
}


@pytest.mark.parametrize("modules", MODULES.values(), ids=MODULES)
def test_modules_that_no_worker_lists_are_refused(modules: Any) -> None:
    with pytest.raises(ValueError):
        read(modules=modules)
    with pytest.raises(ValueError):
        reports.read_modules(json.dumps(modules).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 8},
        {"outcome": []},
        {"outcome": "timeout"},
        {"wall_s": float("nan")},
        {"log": [0, 0]},
        {"error": []},
        {"file": "8-1.json"},
        {"file": "7-2.json"},
        {"file": ["7-1.json"]},
        {"modules_file": "8-1.json"},
        {"modules_file": "7-1.json"},
        {"modules_file": "modules-7-2.json"},
        {"modules_file": "../modules-7-1.json"},
        {"modules_file": None},
        {"modules_file": []},
    ],
    ids=str,
)
def test_a_report_that_no_worker_gives_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read(**changes)


@pytest.mark.parametrize("data", [b"", b"\xff", b"1", b"[]", DEEP.encode()], ids=lambda data: str(data[:5]))
def test_what_is_no_report_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        reports.read(data, 7, "7-1")
    with pytest.raises(ValueError):
        reports.read_modules(data)


def spoil(hands: Hands, text: str, *file: str) -> None:
    """An attempt that reports this ends by it, its worker goes, and everything else goes on."""
    found = hands.end_of(hands.send(0, "spoiler:report", text, *file))
    assert "its board cannot be read" in found.failed
    hands.all_idle()
    for number in range(3):
        assert hands.call("zoo.calm:echo", number) == str(number)


SPOILED = {
    "nested": DEEP,
    "no text": text_of(1, outcome=[]),
    "NUL in a module's name": text_of(1, modules={"/a\0b": STAMP}),
    "no module's name": text_of(1, modules={"/\ud800": STAMP}),
    "no such list": text_of(1, modules_file="modules-1-1.json"),
}


@pytest.mark.parametrize("text", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_board_costs_one_attempt(hands: Hands, text: str) -> None:
    hands.all_idle()
    spoil(hands, text)


@pytest.mark.parametrize("listed", [DEEP, "x", *map(json.dumps, MODULES.values())], ids=["nested", "x", *MODULES])
def test_a_spoiled_list_of_modules_costs_one_attempt(hands: Hands, listed: str) -> None:
    hands.all_idle()
    spoil(hands, text_of(1, modules_file="modules-1-1.json"), "modules-1-1.json", listed)
    assert not list((hands.folder / "results").glob("modules*"))


@pytest.mark.parametrize("key", ["file", "modules_file"])
@pytest.mark.parametrize("name", ["99-1.json", "modules-99-1.json"])
def test_a_report_takes_no_other_tasks_file(hands: Hands, key: str, name: str) -> None:
    hands.all_idle()
    other = hands.folder / "results" / name
    other.write_text("{}")
    spoil(hands, text_of(1, **{key: name}))
    assert other.read_text() == "{}"


@pytest.mark.parametrize("told", ["nan", "inf", "-inf", "0"])
def test_a_deadline_runs_whatever_the_board_says_of_the_call(hands: Hands, told: str) -> None:
    hands.all_idle()
    sent_s = time.monotonic()
    serial = hands.send(0, "spoiler:say_called_at", told)
    page = hands.inside(0).process.board

    def written() -> bool:
        call = page.read_call(serial)
        return call is not None and str(call[0]) in (told, "0.0")

    eventually("the time is written", written)
    called_s = hands.crew.called(0, serial)
    assert called_s is not None
    assert sent_s <= called_s <= time.monotonic()
    hands.crew.end(0, serial)
    hands.end_of(serial)
