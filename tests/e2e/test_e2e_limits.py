"""Limits of time and tries, as a real battd keeps them, and what `battctl wait` says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import RunState, State
from batt_supervisor.errors import Refused
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import StageSpec, TaskSpec

Battctl = Callable[..., Any]


def intervals(folder: Path) -> dict[str, list[tuple[float, float | None]]]:
    """(start, end) of each call of `zoo.records:interval`, by name; no end where it was killed."""
    found: dict[str, list[tuple[float, float | None]]] = {}
    for line in (folder / "log").read_text().splitlines():
        name, what, at, _pid = line.split()
        assert what != "overlap", f"two attempts of {name} were alive at the same time"
        calls = found.setdefault(name, [])
        if what == "start":
            calls.append((float(at), None))
        else:
            calls[-1] = (calls[-1][0], float(at))
    return found


# Timeouts


def test_the_timeout_starts_at_the_call_not_at_the_import(battd: Daemon) -> None:
    run = battd.submit("zoo.hangs_at_import:work", env={"ZOO_IMPORT_S": "1.5"}, timeout_s=0.75)
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}
    task = battd.look(run)
    assert task.wall_s is not None
    assert task.wall_s < 0.75


def test_an_import_does_not_eat_into_the_timeout(battd: Daemon) -> None:
    run = battd.submit("zoo.hangs_at_import:work", args=(3600,), env={"ZOO_IMPORT_S": "0.8"}, timeout_s=1.0)
    battd.wait(run)
    task = battd.look(run)
    assert task.outcome == "timeout"
    assert task.wall_s is not None
    assert task.wall_s >= 1.0


def test_an_import_that_hangs_is_ended_at_boot_timeout_and_is_not_charged(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "once.py").write_text(
        "import os, time\nif not os.path.exists('mark'):\n    open('mark', 'w').close()\n    time.sleep(3600)\n"
        "def work():\n    return 'second'\n"
    )
    daemon = new_battd('boot_timeout = "2s"\n').start()
    run = daemon.submit("once:work", cwd=tmp_path, timeout_s=60, max_attempts=1)
    assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
    first, second = daemon.attempts(run)
    assert first.outcome == "lost"
    assert "boot_timeout (2 s)" in (first.reason or "")
    assert second.outcome == "ok"
    daemon.stop()


def test_a_soft_timeout_is_raised_in_the_task(battd: Daemon) -> None:
    run = battd.submit("zoo.hangs:spin", timeout_s=30, soft_timeout_s=0.3)
    battd.wait(run)
    task = battd.look(run)
    assert task.outcome == "exception"
    assert task.error is not None
    assert task.error.type == "worker.guard.SoftTimeout"
    assert task.wall_s is not None
    assert task.wall_s < 10


def test_a_task_that_swallows_its_soft_timeout_is_ended_by_the_hard_one(battd: Daemon) -> None:
    run = battd.submit("zoo.hangs:swallow_everything", timeout_s=1.0, soft_timeout_s=0.2)
    battd.wait(run)
    assert battd.look(run).outcome == "timeout"


def test_a_hang_among_tiny_tasks_is_ended_at_its_own_deadline(battd: Daemon) -> None:
    """Tiny tasks travel in packs; those behind the hung one are made all the same, and once."""
    items = [[False]] * 300 + [[True]] + [[False]] * 300
    run = battd.submit("zoo.hangs:sometimes", items, timeout_s=1.0)
    info = battd.wait(run)
    assert info.outcomes == {"ok": 600, "timeout": 1}
    assert {task.attempt for task in battd.results(run)} == {1}


# Tries


def test_a_task_is_tried_max_attempts_times_never_twice_at_once(battd: Daemon, tmp_path: Path) -> None:
    run = battd.submit(
        "zoo.records:fail_in_intervals",
        [[str(tmp_path), name, 0.05] for name in "abcd"],
        max_attempts=3,
        retry_delay_s=0.1,
    )
    info = battd.wait(run)
    assert info.counts == {State.FAILED: 4}
    for name, calls in intervals(tmp_path).items():
        assert len(calls) == 3, name
        for (_, ended), (started, _) in pairwise(calls):
            assert ended is not None
            assert started - ended >= 0.05  # half the delay: the jitter's lower end


def test_a_later_attempt_that_succeeds_makes_the_task_succeed(battd: Daemon, tmp_path: Path) -> None:
    run = battd.submit("zoo.raises:fail_until", args=(str(tmp_path / "tries"), 2), max_attempts=5)
    assert battd.wait(run).counts == {State.SUCCEEDED: 1}
    assert [attempt.outcome for attempt in battd.attempts(run)] == ["exception", "exception", "ok"]
    assert battd.look(run).error is None


def test_a_failed_task_can_be_retried_with_a_fresh_count(battd: Daemon, tmp_path: Path) -> None:
    run = battd.submit("zoo.raises:fail_until", args=(str(tmp_path / "tries"), 2), max_attempts=2)
    assert battd.wait(run).state is RunState.FAILED
    assert battd.client.retry(run).tasks == 1
    assert battd.wait(run).state is RunState.SUCCEEDED
    assert battd.look(run).attempt == 3


def test_a_task_that_succeeded_cannot_be_retried(battd: Daemon) -> None:
    run = battd.submit("zoo.calm:echo")
    battd.wait(run)
    assert battd.client.retry(run).tasks == 0
    with pytest.raises(Refused, match="only failed and cancelled"):
        battd.client.retry_task(battd.task(run))


# Deadlines, cancels, and the codes of `wait`


def test_a_deadline_stops_what_runs_and_keeps_what_has_finished(battd: Daemon, battctl: Battctl) -> None:
    run = battd.submit("zoo.calm:sleep", [0.01] * 10 + [3600] * 6, deadline_s=2.0)
    waited = battctl(battd, "wait", run, "--json")
    assert waited.returncode == 3, waited.stderr
    info = battd.client.run(run)
    assert info.state is RunState.PARTIAL
    assert info.counts == {State.SUCCEEDED: 10, State.CANCELLED: 6}
    results = battd.results(run)
    assert [task.value for task in results[:10]] == [0.01] * 10
    assert "deadline" in (results[10].reason or "")
    assert results[15].attempt == 0
    assert json.loads(waited.stdout)["state"] == "partial"


def test_a_run_that_ends_before_its_deadline_is_not_partial(battd: Daemon, battctl: Battctl) -> None:
    run = battd.submit("zoo.calm:echo", [1, 2], deadline_s=3600)
    assert battctl(battd, "wait", run).returncode == 0
    assert battd.client.run(run).state is RunState.SUCCEEDED


def test_waiting_for_a_run_with_a_failed_task_gives_one(battd: Daemon, battctl: Battctl) -> None:
    run = battd.submit("zoo.hangs:sometimes", [[False], ["not", "two"]])
    assert battctl(battd, "wait", run).returncode == 1


def test_waiting_no_longer_than_told_gives_five_and_the_run_goes_on(battd: Daemon, battctl: Battctl) -> None:
    run = battd.submit("zoo.calm:sleep", args=(3600,))
    waited = battctl(battd, "wait", run, "--timeout", "300ms")
    assert waited.returncode == 5
    assert "goes on" in waited.stderr
    assert battd.client.run(run).state is RunState.RUNNING
    assert battctl(battd, "cancel", run).returncode == 0
    assert battctl(battd, "wait", run).returncode == 4


def test_a_cancelled_run_is_gone_wherever_its_tasks_stood(battd: Daemon) -> None:
    """Two running, the rest queued, one with its backoff before it, a stage that waits."""
    stages = [
        StageSpec(name="first", function="zoo.raises:value_error", max_attempts=2, retry_delay_s=3600),
        StageSpec(name="second", function="zoo.hangs:ignore_every_signal"),
        StageSpec(name="third", function="zoo.calm:nothing", after=("first",)),
    ]
    tasks = [TaskSpec(stage=0), *[TaskSpec(stage=1)] * 20, *[TaskSpec(stage=2)] * 3000]
    run = battd.submit_stages(stages, tasks)
    seen = {State.SCHEDULED, State.RUNNING, State.QUEUED, State.WAITING}
    eventually("it has tasks in every open state", lambda: seen <= set(battd.client.run(run).counts))
    assert battd.client.cancel(run).tasks == 3021
    info = battd.wait(run)
    assert info.state is RunState.CANCELLED
    assert info.counts == {State.CANCELLED: 3021}
    assert battd.client.cancel(run).tasks == 0


def test_a_running_task_can_be_cancelled_alone(battd: Daemon) -> None:
    run = battd.submit("zoo.hangs:sometimes", [[True], [False]], max_attempts=3)
    task = battd.task(run)
    battd.wait_for(task, State.RUNNING)
    battd.client.cancel_task(task)
    battd.wait_for(task, State.CANCELLED)
    assert battd.wait(run).counts == {State.CANCELLED: 1, State.SUCCEEDED: 1}
    assert battd.client.task(task).task.attempt == 1
    with pytest.raises(Refused, match="has ended already"):
        battd.client.cancel_task(task)


def test_a_task_in_its_backoff_can_be_cancelled_alone(battd: Daemon) -> None:
    run = battd.submit("zoo.raises:value_error", max_attempts=2, retry_delay_s=3600)
    battd.wait_for(run, State.SCHEDULED)
    battd.client.cancel_task(battd.task(run))
    assert battd.wait(run).counts == {State.CANCELLED: 1}


def test_a_cancelled_run_can_be_taken_up_again(battd: Daemon, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = battd.submit("zoo.calm:wait_for_file", [str(go)] * 6)
    battd.wait_for(run, State.RUNNING)
    battd.client.cancel(run)
    battd.wait(run)
    go.touch()
    assert battd.client.retry(run).tasks == 6
    assert battd.wait(run).state is RunState.SUCCEEDED


# Stages


def test_a_stage_starts_when_those_before_it_have_ended(battd: Daemon, tmp_path: Path) -> None:
    stages = [
        StageSpec(name="first", function="zoo.records:interval"),
        StageSpec(name="second", function="zoo.records:interval", after=("first",)),
    ]
    tasks = [TaskSpec(stage=stage, args=[str(tmp_path), f"{stage}{n}", 0.05]) for n in range(6) for stage in (0, 1)]
    run = battd.submit_stages(stages, tasks)
    assert battd.wait(run).state is RunState.SUCCEEDED
    calls = intervals(tmp_path)
    ends = [end for name, found in calls.items() for _, end in found if name.startswith("0") and end]
    starts = [start for name, found in calls.items() for start, _ in found if name.startswith("1")]
    assert len(ends) == len(starts) == 6
    assert max(ends) <= min(starts)


def test_a_stage_starts_however_those_before_it_have_ended(battd: Daemon) -> None:
    stages = [
        StageSpec(name="empty", function="zoo.calm:nothing"),
        StageSpec(name="fails", function="zoo.dies:kill_itself", after=("empty",)),
        StageSpec(name="last", function="zoo.calm:echo", after=("fails", "empty")),
    ]
    run = battd.submit_stages(stages, [TaskSpec(stage=1), TaskSpec(stage=2, args=[1])])
    assert battd.wait(run).counts == {State.FAILED: 1, State.SUCCEEDED: 1}


def test_a_run_without_tasks_has_ended(battd: Daemon, battctl: Battctl) -> None:
    run = battd.submit("zoo.calm:nothing", [])
    assert battctl(battd, "wait", run).returncode == 0
