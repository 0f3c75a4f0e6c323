"""The event log through battctl: a task's story, and a stream that outlives both sides."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import BadInput
from batt_supervisor.testing import Daemon, eventually


class Follower:
    """battctl events in a process of its own, writing to a file as a user would have it."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self._daemon, self.path = daemon, path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        with self.path.open("ab") as out:
            command = [sys.executable, "-m", "batt_supervisor.cli.main", "events", "--follow", *words]
            self._process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.DEVNULL, env=self._daemon.environment()
            )

    def stop(self, number: int = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(60)

    def lines(self) -> list[dict[str, Any]]:
        """Whole lines; the last one may have been cut off by a kill."""
        text = self.path.read_text() if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def trim(self) -> int:
        """Drop half a line, as a reader that goes on would; the last number that is whole."""
        found = self.lines()
        text = self.path.read_text()
        self.path.write_text(text[: text.rfind("\n") + 1])
        return int(found[-1]["seq"]) if found else 0


@pytest.fixture
def follower(new_battd: Callable[..., Daemon], tmp_path: Path) -> Iterator[tuple[Daemon, Follower]]:
    daemon = new_battd('retry_delay = "20ms"\n').start()
    follower = Follower(daemon, tmp_path / "events.jsonl")
    yield daemon, follower
    daemon.end()


def test_a_stream_outlives_restarts_of_either_side(follower: tuple[Daemon, Follower]) -> None:
    daemon, stream = follower
    stream.start()
    first = daemon.submit("zoo.calm:sleep_a_second")
    daemon.wait_for(first, State.RUNNING)
    eventually("the claim is streamed", lambda: any(event["event"] == "claim" for event in stream.lines()))
    daemon.kill(signal.SIGKILL)
    daemon.start()
    daemon.wait(first)
    eventually("the end is streamed", lambda: any(event["event"] == "ended" for event in stream.lines()))
    stream.stop()
    second = daemon.submit("zoo.calm:echo", list(range(50)))
    daemon.wait(second)
    stream.start("--after", str(stream.trim()), "--run", second)
    assert stream.wait() == 0, "it leaves when the run has ended"
    found = stream.lines()
    numbers = [event["seq"] for event in found]
    assert numbers == sorted(set(numbers))
    of_first = [event["event"] for event in found if event["run"] == first and event["task"]]
    assert of_first == ["created", "claim", "again", "claim", "succeed"]
    assert next(event for event in found if event["event"] == "again")["reason"] == "battd went away while it ran"
    assert [event["event"] for event in found].count("started") == 2
    of_second = Counter(event["event"] for event in found if event["run"] == second and event["task"])
    assert of_second["created"] == of_second["succeed"] == 50
    for task in {event["task"] for event in found if event["task"]}:
        own = [event for event in found if event["task"] == task]
        assert all(before["to"] == after["from"] for before, after in itertools.pairwise(own))


def test_a_tasks_story_is_told(battd: Daemon, battctl: Any) -> None:
    run = battd.submit("zoo.raises:value_error", max_attempts=2)
    battd.wait(run)
    task = battd.task(run)
    told = battctl(battd, "logs", "--events", task)
    assert told.returncode == 0, told.stderr
    rows = [line.split() for line in told.stdout.splitlines()]
    assert rows[0] == ["WHEN", "AFTER", "EVENT", "TRY", "FROM", "TO", "OUTCOME", "REASON"]
    assert [row[4] for row in rows[1:]] == ["created", "claim", "later", "due", "claim", "fail"]
    events = json.loads(battctl(battd, "logs", "--events", task, "--json").stdout)
    assert [(event["from"], event["to"], event["attempt"]) for event in events] == [
        (None, "queued", None),
        ("queued", "running", 1),
        ("running", "scheduled", 1),
        ("scheduled", "queued", 1),
        ("queued", "running", 2),
        ("running", "failed", 2),
    ]
    assert events[2]["outcome"] == "exception"
    assert "ValueError" in events[2]["reason"]


def test_a_position_that_is_not_there_yet_is_refused(battd: Daemon, battctl: Any) -> None:
    last = battd.client.events().next
    with pytest.raises(BadInput, match=rf"{last + 1} is no event of this log yet, its last is {last}"):
        battd.client.events(after=last + 1)
    told = battctl(battd, "events", "--new")
    assert (told.returncode, "goes with --follow" in told.stderr) == (2, True)


def test_only_what_is_new(battd: Daemon) -> None:
    before = battd.client.events().next
    run = battd.submit("zoo.calm:echo", [1])
    battd.wait(run)
    page = battd.client.events(after=before, run=run)
    assert [event.event for event in page.items] == ["created", "created", "sealed", "claim", "succeed", "ended"]
    assert battd.client.events(after=page.next, run=run, wait_s=0.1).items == ()
