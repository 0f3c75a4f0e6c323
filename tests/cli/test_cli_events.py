"""battctl events and logs --events, against a stub that says what battd would."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from batt_supervisor.cli.events import pages
from batt_supervisor.cli.wait import ABSENCE_LONGEST_S
from batt_supervisor.errors import Unreachable
from batt_supervisor.wire import EventInfo, EventPage

Battctl = Callable[..., Any]


def event(seq: int, word: str, task: str | None = "t1", **given: Any) -> dict[str, Any]:
    made = {"seq": seq, "at_ms": 1_000 * seq, "event": word, "run": "r1", "task": task, "attempt": None}
    return made | {"from": None, "to": None, "outcome": None, "reason": None} | given


def page(*items: dict[str, Any], more: bool = False, missed: int = 0) -> dict[str, Any]:
    last = items[-1]["seq"] if items else 0
    return {"items": list(items), "next": last, "first": 1, "missed": missed, "more": more}


class Fake:
    """A client whose answers are given, one after another; an exception among them is raised."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def events(self, **given: Any) -> EventPage:
        self.asked.append(given)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return EventPage.model_validate(answer)


def read(client: Any, after: int = 0, run: str | None = None, *, follow: bool) -> list[int]:
    moments = iter(range(10_000))
    found: list[EventInfo] = []
    for some in pages(client, after, run, follow=follow, clock=lambda: float(next(moments)), sleep=lambda s: None):
        found += some
    return [one.seq for one in found]


def test_lines_have_exactly_the_fields_of_the_api(battctl: Battctl, stub: Any) -> None:
    stub.on("GET", "/v1/events", page(event(1, "created", to="queued"), event(2, "claim", attempt=1)))
    ended = battctl("events")
    assert ended.code == 0
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert lines[0] == event(1, "created", to="queued")
    assert list(lines[0]) == ["seq", "at_ms", "event", "run", "task", "attempt", "from", "to", "outcome", "reason"]


def test_what_is_no_longer_kept_is_told(battctl: Battctl, stub: Any) -> None:
    stub.on("GET", "/v1/events", page(event(9, "claim"), missed=5))
    ended = battctl("events", "--after", "3")
    assert ended.err == "battctl: 5 events behind 3 are no longer kept\n"
    assert stub.requests[-1].query["after"] == "3"


@pytest.mark.parametrize("words", [("--new",), ("--new", "--follow", "--after", "3")])
def test_new_goes_with_follow_alone(battctl: Battctl, stub: Any, words: tuple[str, ...]) -> None:
    ended = battctl("events", *words)
    assert (ended.code, stub.requests) == (2, [])


def test_without_follow_it_ends_with_the_last_page() -> None:
    client = Fake(page(event(1, "created"), more=True), page(event(2, "claim")))
    assert read(client, follow=False) == [1, 2]
    assert [asked["after"] for asked in client.asked] == [0, 1]
    assert not any(asked["wait_s"] for asked in client.asked)


def test_following_a_run_ends_when_it_has_ended_for_good() -> None:
    client = Fake(
        page(event(1, "ended", None), event(2, "retry"), event(3, "reopened", None)),
        page(event(4, "claim")),
        page(event(5, "succeed"), event(6, "ended", None)),
    )
    assert read(client, run="r1", follow=True) == [1, 2, 3, 4, 5, 6]


def test_following_a_run_that_has_ended_before_ends_at_once() -> None:
    client = Fake(page())
    found = list(pages(client, 9, "r1", follow=True, over=True))  # type: ignore[arg-type]
    assert (found, client.asked[0]["wait_s"]) == ([()], 0)


def test_a_name_means_one_run_from_the_first_page_to_the_last(battctl: Battctl, stub: Any, run_info: Any) -> None:
    stub.on("GET", "/v1/runs/weekly", run_info())
    stub.on("GET", "/v1/events", page(event(1, "created")))
    assert battctl("events", "--run", "weekly").code == 0
    assert [asked.query["run"] for asked in stub.requests if asked.path == "/v1/events"] == [run_info()["run"]]


def test_a_run_that_there_never_was_is_not_found(battctl: Battctl, stub: Any) -> None:
    assert battctl("events", "--run", "nobody").code == 6


def test_a_battd_that_comes_back_is_gone_on_with() -> None:
    client = Fake(page(event(1, "claim")), Unreachable("gone"), Unreachable("gone"), page(event(2, "ended", None)))
    assert read(client, run="r1", follow=True) == [1, 2]
    assert [asked["after"] for asked in client.asked] == [0, 1, 1, 1]


def test_a_battd_that_stays_away_is_given_up_and_the_place_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    client = Fake(page(event(7, "claim")), Unreachable("gone"))
    with pytest.raises(Unreachable):
        read(client, follow=True)
    told = capsys.readouterr().err
    assert "go on with --after 7" in told
    assert len(client.asked) > ABSENCE_LONGEST_S / 2 - 2


def test_a_story_is_a_table(battctl: Battctl, stub: Any) -> None:
    stub.on(
        "GET", "/v1/tasks/t1/events", [event(1, "created", to="queued"), event(2, "claim", attempt=1, reason="a\nb")]
    )
    lines = battctl("logs", "--events", "t1").out.splitlines()
    assert lines[0].split() == ["WHEN", "AFTER", "EVENT", "TRY", "FROM", "TO", "OUTCOME", "REASON"]
    assert "+1.000 s" in lines[2]
    assert lines[2].endswith("a\\nb")


def test_a_story_whose_beginning_is_gone_says_so(battctl: Battctl, stub: Any) -> None:
    stub.on("GET", "/v1/tasks/t1/events", [event(2, "claim", attempt=1)])
    assert battctl("logs", "--events", "t1").err == "battctl: what came before is no longer kept\n"


@pytest.mark.parametrize("words", [("--attempt", "1"), ("--tail", "1KB")])
def test_a_story_has_no_attempt_and_no_tail(battctl: Battctl, stub: Any, words: tuple[str, ...]) -> None:
    ended = battctl("logs", "--events", "t1", *words)
    assert (ended.code, stub.requests) == (2, [])
