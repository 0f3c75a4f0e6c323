"""A short form of the benchmark of a million tasks: all tasks are there and are run again; nothing about its speed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import backlog
import brokered
import bulk
import psutil
import pytest
import throughput
from figures import Findings

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import eventually

BENCHMARK = Path(bulk.__file__).parent / "million.py"

TASKS = 20_000


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(BENCHMARK.parents[1])}
    return subprocess.run(
        [sys.executable, str(BENCHMARK), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def figures(told: str) -> dict[str, dict[str, Any]]:
    return {f"{one['part']}: {one['what']}": one for one in json.loads(told)["figures"]}


def test_a_quick_run_tells_every_figure_and_finds_nothing_wrong() -> None:
    done = run("--tasks", str(TASKS), "--rounds", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["wrong"] == []
    found = figures(done.stdout)
    assert all(one["value"] > 0 for one in found.values() if not one["part"].startswith("How much later"))
    parts = {part for part, _, _ in (name.partition(":") for name in found)}
    assert any("Submission of 20,000 tasks" in part for part in parts)
    restarts = [one["what"] for one in found.values() if one["part"].startswith("From battd's start")]
    assert restarts == ["10 tasks in the store", "20,000 queued", "20,000 finished"]
    for what in ("10 queued", "1,000 queued", "20,000 queued"):
        assert sum(one["what"] == what for one in found.values()) >= 7


def test_every_task_that_is_acknowledged_is_in_its_place_with_its_arguments(tmp_path: Path) -> None:
    with backlog.busy(tmp_path / "home") as daemon:
        found = Findings()
        rate, waited_ms = bulk.through_battd(daemon, TASKS, found)
        assert found.wrong == []
        assert rate > 0 and len(waited_ms) % 3 == 0
        (info,) = [one for one in daemon.client.runs(100) if one.name == backlog.NAME]
        assert info.counts == {State.QUEUED: TASKS}
        backlog.kill(daemon)
        daemon.start()
        tasks = daemon.results(info.run)
        assert [(task.index, task.args) for task in tasks] == [(n, {"n": n}) for n in range(TASKS)]
        bystanders = [one for one in daemon.client.runs(1000) if one.name == "bystander"]
        assert len(bystanders) == len(waited_ms) // 3
        assert {one.tasks for one in bystanders} <= {1}


@pytest.mark.parametrize("wrong", [["--tasks", "99"], ["--rounds", "0"], ["--tasks", "x"]])
def test_what_cannot_be_measured_is_refused(wrong: list[str]) -> None:
    done = run(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr


def test_raw_rows_are_all_there(tmp_path: Path) -> None:
    assert bulk.raw(tmp_path, 12_345) > 0
    assert list(tmp_path.iterdir()) == []


def test_celery_is_left_out_with_a_sentence_where_it_or_redis_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "redis-server is not installed" in brokered.missing()
    given = throughput.argparse.Namespace(json=False, tasks=1, workers=1, rounds=1, synchronous="full")
    throughput.report({throughput.OURS: [2.0], "pebble": [4.0]}, brokered.missing(), given)
    assert "celery + redis was not measured: redis-server is not installed" in capsys.readouterr().out


@pytest.mark.skipif(bool(brokered.missing()), reason=brokered.missing() or "it is installed")
def test_celery_gives_every_result_and_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import brokered\n"
        "with brokered.celery(2, Path(sys.argv[1])) as measure: print(measure(50) > 0)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARK.parent), *sys.path])}
    words = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.communicate(timeout=120)[0].strip() == "True"
    assert list(tmp_path.iterdir()) == []
    eventually("nothing of its session is left", lambda: not in_session(process.pid))


def in_session(leader: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found
