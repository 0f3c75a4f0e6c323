"""What BATT_FAULTS asks for happens, once and where it was asked for; what nobody can mean is told."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import batt_supervisor
from batt_supervisor.daemon import faults
from batt_supervisor.errors import BadConfiguration
from batt_supervisor.testing import ManualClock

ROOT = str(Path(batt_supervisor.__file__).parents[1])

PASS = """
import sys
from batt_supervisor.daemon import faults
point = faults.read({"BATT_FAULTS": sys.argv[1]}).point
for number in range(1, 6):
    for name in ("claim", "settle"):
        point(name)
    print(number, flush=True)
"""
"""Passes two points, five times each."""


def passing(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASS, text],
        env={"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "rounds", "told"),
    [
        ("settle=kill", 0, "battd: killed at 'settle', passing 1, by BATT_FAULTS\n"),
        ("settle=kill@1", 0, "battd: killed at 'settle', passing 1, by BATT_FAULTS\n"),
        ("settle=kill@3", 2, "battd: killed at 'settle', passing 3, by BATT_FAULTS\n"),
        ("settle=kill@5, claim=kill@4", 3, "battd: killed at 'claim', passing 4, by BATT_FAULTS\n"),
    ],
)
def test_the_process_is_killed_at_the_passing_that_was_named(text: str, rounds: int, told: str) -> None:
    done = passing(text)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.splitlines()) == rounds
    assert done.stderr == told


@pytest.mark.parametrize("text", ["", ",", "settle=kill@6", "submit=kill", "loop=hang"])
def test_a_point_that_was_not_asked_for_is_passed(text: str) -> None:
    done = passing(text)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 5, "")


def test_a_point_that_is_to_die_raises() -> None:
    point = faults.read({"BATT_FAULTS": "writer=die"}).point
    point("api")
    with pytest.raises(RuntimeError, match="'writer' by BATT_FAULTS"):
        point("writer")


def test_a_point_that_is_to_hang_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    stayed: list[float] = []
    monkeypatch.setattr("time.sleep", stayed.append)
    point = faults.read({"BATT_FAULTS": "send=hang"}).point
    point("send")
    assert stayed == [faults.HANG_S]


def test_the_text_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "faults"
    file.write_text("writer=die\n")
    with pytest.raises(RuntimeError):
        faults.read({"BATT_FAULTS": f"@{file}"}).point("writer")


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_file_that_is_missing_or_empty_asks_for_nothing(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "faults"
    if content is not None:
        file.write_text(content)
    point = faults.read({"BATT_FAULTS": f"@{file}"}).point
    for name in faults.POINTS:
        point(name)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=re.escape(f"the file {tmp_path} cannot be read")):
        faults.read({"BATT_FAULTS": f"@{tmp_path}"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("writr=die", "there is no fault point 'writr'; did you mean 'writer'?"),
        ("=die", "there is no fault point ''"),
        ("writer", "'writer' says no fault; it is NAME=die, =hang, =kill or =kill@N"),
        ("writer=", "'writer=' says no fault"),
        ("writer=explode", "'writer=explode' says no fault"),
        ("writer=kill@0", "'writer=kill@0' says no fault"),
        ("writer=kill@x", "'writer=kill@x' says no fault"),
        ("writer=die@2", "'writer=die@2' says no fault"),
        ("loop=hang,writer=dye", "'writer=dye' says no fault"),
        ("claim=kill,claim=kill@2", "the fault point 'claim' is named twice"),
    ],
)
def test_what_nobody_can_mean_is_told_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as told:
        faults.read({"BATT_FAULTS": text})
    assert f"BATT_FAULTS: {sentence}" in str(told.value)
    assert "\n" not in str(told.value)


def test_battd_does_not_start_with_a_fault_that_it_does_not_know(tmp_path: Path) -> None:
    state, socket = tmp_path / "state", tmp_path / "s"
    done = subprocess.run(
        [sys.executable, "-m", "batt_supervisor.daemon.main", "--state-dir", state, "--socket", socket],
        env={"PYTHONPATH": ROOT, "BATT_FAULTS": "settel=kill"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'settle'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not state.exists()


def test_the_wall_clock_is_off_by_what_a_file_says_at_each_reading(tmp_path: Path) -> None:
    by, right = tmp_path / "by", ManualClock()
    wrong = faults.read({"BATT_FAULTS": f"settle=kill@9, clock={by}"}).clock(right)
    now = right.read()
    assert wrong.read() == now
    for seconds in (86_400, -0.25, 0):
        by.write_text(f"{seconds}\n")
        assert wrong.read() == replace(now, wall_ms=now.wall_ms + round(seconds * 1000))


def test_without_that_the_clock_is_the_hosts_own() -> None:
    right = ManualClock()
    assert faults.read({"BATT_FAULTS": "settle=kill@9"}).clock(right) is right


@pytest.mark.parametrize("text", ["clock", "clock=", "clock=5"])
def test_a_clock_that_names_no_file_is_told(text: str) -> None:
    with pytest.raises(BadConfiguration, match="clock=/PATH"):
        faults.read({"BATT_FAULTS": text})


SOURCES = sorted((Path(ROOT) / "batt_supervisor").rglob("*.py"))


@pytest.mark.parametrize("name", sorted(faults.POINTS))
def test_every_point_is_passed_somewhere(name: str) -> None:
    passed = re.compile(rf'(point\(|threads\.start\(|": )"{name}"')
    assert [path for path in SOURCES if path.name != "faults.py" and passed.search(path.read_text(encoding="utf-8"))]


def test_every_thread_of_battd_has_a_point() -> None:
    main = (Path(ROOT) / "batt_supervisor" / "daemon" / "main.py").read_text(encoding="utf-8")
    threads = set(re.findall(r'threads\.start\("(\w+)"', main))
    assert "writer" in threads
    assert threads <= set(faults.POINTS)
