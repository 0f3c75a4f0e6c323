"""supervisor.conf as it is, with a real supervisord: what it is there for, it does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from deploy_service import SLOTS, Supervised, alive, eventually, naming

from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import RunState, State
from batt_supervisor.wire import RunInfo, RunSpec, StageSpec, TaskSpec

TASKS = 40

NAPS = """
import os, time

def nap(number):
    while number >= 4 and not os.path.exists("go"):
        time.sleep(0.02)
    return number
"""
"""Some tasks end at once, the others when they are told to: the middle of the run lasts as long as it is needed."""


def submit(client: Client, folder: Path) -> str:
    (folder / "naps.py").write_text(NAPS)
    stage = StageSpec(name="naps", function="naps:nap", timeout_s=120, max_attempts=1)
    spec = RunSpec(name="naps", cwd=str(folder), stages=(stage,))
    return client.submit(spec, (TaskSpec(args={"number": number}) for number in range(TASKS))).run


def draining(supervised: Supervised) -> bool:
    with Client(supervised.socket) as client:
        return client.service().draining


def wait(client: Client, run: str, state: RunState) -> RunInfo:
    eventually(f"{run} is {state}", lambda: client.run(run).state is state)
    return client.run(run)


def test_a_run_outlives_kill_dash_nine_of_battd(supervised: Supervised, tmp_path: Path) -> None:
    first = supervised.battd()
    with Client(supervised.socket) as client:
        run = submit(client, tmp_path)

        def in_the_middle() -> bool:
            busy = sum(slot.task is not None for slot in client.service().slots)
            return busy == SLOTS and client.run(run).counts.get(State.SUCCEEDED, 0) >= 1

        eventually("the run is in its middle", in_the_middle)
        workers = [slot.worker_pid for slot in client.service().slots if slot.worker_pid is not None]
    os.kill(first, signal.SIGKILL)

    second = supervised.battd(other_than=first)
    (tmp_path / "go").touch()
    with Client(supervised.socket) as client:
        ended = wait(client, run, RunState.SUCCEEDED)
        results = list(client.all_results(run))
    assert ended.counts == {State.SUCCEEDED: TASKS}
    assert [result.value for result in results] == list(range(TASKS))
    assert all(result.outcome == "ok" for result in results)
    # What was under way went again, although one attempt is all that a task has: the loss was not its own.
    assert max(result.attempt for result in results) == 2
    assert workers
    assert [pid for pid in workers if alive(pid)] == []
    assert alive(second)


def test_battd_is_drained_when_supervisord_stops(supervised: Supervised, tmp_path: Path) -> None:
    battd = supervised.battd()
    with Client(supervised.socket) as client:
        run = submit(client, tmp_path)
        eventually("something runs", lambda: client.run(run).counts.get(State.RUNNING, 0) >= 1)
    supervised.process.terminate()
    eventually("it drains", lambda: not supervised.socket.exists() or draining(supervised))
    assert alive(battd)
    (tmp_path / "go").touch()
    assert supervised.stop() == 0
    assert not alive(battd)
    assert naming(supervised.home) == []
    assert "drained" in supervised.said()
    assert not supervised.socket.exists()


def test_supervisorctl_reaches_battd(supervised: Supervised) -> None:
    battd = supervised.battd()
    eventually("RUNNING", lambda: "RUNNING" in supervised.control("status", "battd"))
    assert supervised.control("pid", "battd").strip() == str(battd)
    supervised.control("restart", "battd")
    assert supervised.battd(other_than=battd) != battd


def test_what_it_keeps_is_private(supervised: Supervised) -> None:
    supervised.battd()
    assert (supervised.home / "supervisord.sock").stat().st_mode & 0o077 == 0
    assert (supervised.home / "state").stat().st_mode & 0o077 == 0
    assert supervised.socket.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("key", ["BATT_STATE_DIR", "BATT_SOCKET"])
def test_the_environment_says_otherwise(home: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    place = home / "elsewhere"
    value = place if key == "BATT_STATE_DIR" else place / "battd.sock"
    monkeypatch.setattr("deploy_service.environment", lambda **more: {**os.environ, key: str(value), **more})
    service = Supervised(home)
    service.socket = place / "battd.sock"
    try:
        service.battd()
        assert (home / "state").exists() == (key == "BATT_SOCKET")
        assert service.stop() == 0
    finally:
        service.end()
