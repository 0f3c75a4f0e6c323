"""battd is killed at one fault point after another, each time over what the death before has left."""

from __future__ import annotations

import signal
from pathlib import Path

import chaos_tasks
import pytest

from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import State
from batt_supervisor.daemon import faults
from batt_supervisor.errors import Unreachable
from batt_supervisor.testing import Daemon
from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

HERE = Path(__file__).parent

THREADS = {"writer", "api", "builder", "reaper", "loop"}
"""Each begins before battd has promised anything; tests/e2e has them die and hang."""

POINTS = (
    "recover", "boot", "claim", "claimed", "send", "settle", "settled", "exit", "submit", "submitted", "drain",
)  # fmt: skip
"""In an order in which each finds work to be done, and recovery attempts to be written off."""

CONFIG = 'retry_delay = "20ms"\ndrain_timeout = "1s"\n'

TASKS = 60


def test_every_point_has_its_turn() -> None:
    assert {*POINTS, *THREADS} == set(faults.POINTS)


def test_a_battd_that_is_killed_at_every_point_loses_nothing_and_runs_nothing_twice_at_once(tmp_path: Path) -> None:
    with Daemon(tmp_path, config=CONFIG, python_path=[HERE]) as battd:
        battd.start()
        runs = {"first": submit(battd, "first")}
        battd.wait_for(runs["first"], State.RUNNING)
        battd.kill(signal.SIGKILL)

        for point in POINTS:
            battd.env["BATT_FAULTS"] = f"{point}=kill"
            battd.launch()
            if point in ("submit", "submitted"):
                battd.ready()
                with pytest.raises(Unreachable):
                    submit(battd, point)
            elif point == "drain":
                battd.ready()
                battd.kill(signal.SIGTERM)
            assert battd.ended() == -signal.SIGKILL, point
            assert f"killed at {point!r}, passing 1" in battd.log

        del battd.env["BATT_FAULTS"]
        battd.start()
        runs |= {name: submit(battd, name) for name in ("submit", "submitted", "first")}
        assert {info.run: info.name for info in battd.client.runs()} == {run: name for name, run in runs.items()}
        for name, run in runs.items():
            assert battd.wait(run).counts == {State.SUCCEEDED: TASKS}
            assert [result.value for result in battd.results(run)] == names(name)
        tried = [battd.attempts(result.id) for run in runs.values() for result in battd.results(run)]
        for attempts in tried:
            assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
            assert [attempt.outcome for attempt in attempts] == ["lost"] * (len(attempts) - 1) + ["ok"]
        assert max(map(len, tried)) > 1, "nothing was lost: nothing is shown"
        battd.stop()
        assert battd.orphans() == []
        assert " overlap " not in (tmp_path / "log").read_text()


def names(prefix: str) -> list[str]:
    return [f"{prefix}-{number}" for number in range(TASKS)]


def submit(battd: Daemon, name: str) -> str:
    """A run of that name, under a key that is its name; asked for once, whatever becomes of the answer."""
    folder = battd.home
    (folder / "locks").mkdir(exist_ok=True)
    stage = StageSpec(name="nap", function=f"{chaos_tasks.__name__}:nap")
    spec = RunSpec(name=name, key=name, cwd="/", stages=(stage,))
    tasks = [TaskSpec(args=[str(folder), task, 0.05]) for task in names(name)]
    with Client(battd.socket, pauses_s=()) as client:
        return client.submit(spec, iter(tasks)).run
