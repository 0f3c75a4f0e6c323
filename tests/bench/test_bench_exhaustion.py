"""The exhaustion benchmark: what it tells is what it saw, and nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import chart
import chores
import exhaustion
import pytest
from crowd import Crowd, NoLimit
from exhaustion import Seen

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "exhaustion.py"


@pytest.fixture
def limited(tmp_path: Path) -> None:
    """Skips where no limit can be set."""
    try:
        with Crowd("pids", 10, tmp_path):
            pass
    except NoLimit as error:
        pytest.skip(str(error))


def command(*words: str) -> list[str]:
    return [sys.executable, str(PROGRAM), "--quick", "--memory", "0", "--give-up", "200", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("function", ["split", "touch"])
def test_a_task_gives_what_is_expected_of_it(function: str) -> None:
    value, cpu_s = getattr(chores, function)(7)
    assert value == chores.expected(function, 7)
    assert cpu_s > 0


def test_a_wrong_value_does_not_count_as_completed() -> None:
    seen = Seen(total=2)
    seen.add_value("split", 1, [chores.expected("split", 1), 0.1])
    seen.add_value("split", 2, [chores.expected("split", 1), 0.1])
    assert seen.completed == 1


def test_the_table_tells_medians_and_what_went_wrong() -> None:
    rounds = [Seen(completed=n, total=10, wall_s=n, hung=n == 5, notes=Counter({"refused": 1})) for n in (1, 5, 9)]
    middle = exhaustion.middle(rounds)
    assert (middle.completed, middle.notes) == (5, {"refused": 3})
    crowded = exhaustion.middle([Seen(completed=3, total=10, wall_s=2.04, crashed=1, oom_kills=4)])
    text = exhaustion.table({"pids 60": {"serial": middle}, "memory": {"serial": middle, "loky": crowded}})
    assert text.splitlines()[2:] == [
        "| serial | 0.50, 5.0 s | 0.50, 5.0 s |",
        "| loky | - | 0.30, 2.0 s (1 / 0) 4 OOM kills |",
    ]


def test_the_chart_has_a_bar_for_each_figure() -> None:
    rows = {"a<b": {"x": chart.Bar(0.5, "> 3 s"), "y": chart.Bar(1.0, "1 s")}, "c": {"y": chart.Bar(0.25, "")}}
    picture = ElementTree.fromstring(chart.svg("T & U", "note", ["x", "y"], rows, ours=["c"]))
    name = "{http://www.w3.org/2000/svg}"
    bars = [one.get("width") for one in picture.iter(f"{name}rect") if one.get("height") == str(chart.BAR)]
    assert bars == ["420", "210.0", "420", "420.0", "420", "105.0"]
    texts = [one.text for one in picture.iter(f"{name}text")]
    assert {"T & U", "a<b", "0.50 · > 3 s"} <= set(texts)


def test_only_the_whole_is_told_as_one() -> None:
    assert [chart.fraction(part) for part in (0, 0.125, 255 / 256, 1)] == ["0.00", "0.12", "0.99", "1.00"]


def test_rounds_of_earlier_are_read_as_they_were(tmp_path: Path) -> None:
    seen = Seen(completed=3, total=8, wall_s=1.5, errors=Counter({"OSError: no": 2}))
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"rounds": {"pids 60": {"serial": [seen.plain()]}}}))
    found = {"pids 60": {"loky": [Seen()], "serial": [Seen()]}}
    exhaustion.add(found, earlier)
    assert found == {"pids 60": {"serial": [seen, Seen()], "loky": [Seen()]}}


@pytest.mark.usefixtures("limited")
def test_a_quick_round_completes_for_a_peer_and_for_ours(tmp_path: Path) -> None:
    picture = tmp_path / "chart.svg"
    words = command(
        "--pids", "500", "--candidates", "serial,batt-service,batt-eight", "--json", "--chart", str(picture)
    )
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True, timeout=240)
    found = json.loads(done.stdout)["rounds"]["pids 500"]
    seen = {name: (one["completed"], one["crashed"], one["hung"], one["errors"]) for name, [one] in found.items()}
    assert seen == dict.fromkeys(["serial", "batt-service", "batt-eight"], (8, 0, 0, {})), found
    ElementTree.parse(picture)


@pytest.mark.usefixtures("limited")
def test_nothing_is_left_of_a_round_that_is_interrupted(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    words = command("--pids", "500", "--candidates", "serial", "--keep", str(kept))
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(kept.glob("*/i0.log")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    named = f"{kept}/".encode()
    assert [pid for pid in Path("/proc").glob("[0-9]*") if named in _command_line(pid)] == []
    groups = list(Path("/sys/fs/cgroup").rglob(f"batt-crowd-{process.pid}-*"))
    assert groups == []


def _command_line(pid: Path) -> bytes:
    try:
        return (pid / "cmdline").read_bytes()
    except OSError:
        return b""
