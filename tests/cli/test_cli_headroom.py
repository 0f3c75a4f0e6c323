"""What battctl tells of headroom: by itself, of a task that is held, and in doctor."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.cli.inspect_task import NEEDED
from batt_supervisor.core.admission import Free, Hold, Need, admit
from batt_supervisor.core.model import Space

Battctl = Callable[..., Any]
Make = Callable[..., dict[str, Any]]

GIB = 2**30


@pytest.fixture
def report() -> dict[str, Any]:
    """A service that has been squeezed, with another beside it."""
    return {
        "headroom": {
            "memory_free_bytes": 3 * GIB, "memory_limit": "memory.max of /batt.slice: 1024 of 4096 MiB",
            "threads_free": 14, "threads_limit": "pids.max of /batt.slice: 498 of 512",
            "memory_promised_bytes": GIB, "threads_promised": 9, "memory_reserve_bytes": GIB // 4,
            "threads_reserve": 64, "level": "reduced", "level_reason": "t12 ended for want of memory", "width": 3,
        },
        "limits": [
            {
                "resource": "memory", "name": "memory of the host", "source": "/proc/meminfo", "limit": 24 * GIB,
                "used": 4 * GIB, "free": 20 * GIB, "each": False, "binds": False,
            },
            {
                "resource": "memory", "name": "memory.max of /batt.slice",
                "source": "/sys/fs/cgroup/batt.slice/memory.max", "limit": 4 * GIB, "used": GIB, "free": 3 * GIB,
                "each": False, "binds": True,
            },
            {
                "resource": "threads", "name": "pids.max of /batt.slice",
                "source": "/sys/fs/cgroup/batt.slice/pids.max", "limit": 512, "used": 498, "free": 14, "each": False,
                "binds": True,
            },
            {
                "resource": "memory", "name": "RLIMIT_AS", "source": "getrlimit", "limit": 8 * GIB, "used": 0,
                "free": 8 * GIB, "each": True, "binds": False,
            },
        ],
        "pressure": {
            "memory_full": 1.25, "memory_some": 3.0, "cpu_some": None, "load": 3.5, "cpus": 1.5,
            "swap_total_bytes": 2 * GIB, "swap_free_bytes": GIB,
        },
        "missing": ["/proc/pressure/cpu: not there"],
        "ledger": "/dev/shm/batt-1000/ledger",
        "holders": [
            {
                "pid": 42, "name": "/var/lib/batt", "running": 1, "memory_promised_bytes": GIB // 2,
                "threads_promised": 3, "own": True,
            },
            {
                "pid": 77, "name": "/home/me/.local/state/batt", "running": 4, "memory_promised_bytes": GIB // 2,
                "threads_promised": 6, "own": False,
            },
        ],
        "promises": [
            {
                "task": "t12", "kind": "worker.arc.tasks:score", "memory_need_bytes": GIB, "threads_need": 4,
                "memory_used_bytes": GIB // 2, "threads_used": 1,
            },
            {
                "task": "t13", "kind": "score", "memory_need_bytes": GIB, "threads_need": 4,
                "memory_used_bytes": None, "threads_used": None,
            },
        ],
        "level_changes": 5,
        "recent_changes": [
            {"at_ms": 1_700_000_000_000, "level": "reduced", "width": 3, "reason": "t12 ended for want of memory"}
        ],
        "evictions": 2,
    }  # fmt: skip


def empty(report: dict[str, Any]) -> dict[str, Any]:
    """The same service at rest, with no ledger."""
    room = report["headroom"] | {"level": "open", "level_reason": "", "memory_promised_bytes": 0, "threads_promised": 0}
    nothing: dict[str, Any] = {"limits": [], "missing": [], "holders": [], "promises": [], "recent_changes": []}
    pressure = dict.fromkeys(report["pressure"]) | {"swap_total_bytes": 0, "swap_free_bytes": 0}
    why = "no shared place for the ledger: /dev/shm is not writable; the reserve serves"
    counts = {"evictions": 0, "level_changes": 0}
    return report | nothing | counts | {"headroom": room, "pressure": pressure, "ledger": why}


def lines(text: str, word: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if word in line]


# headroom


def test_headroom_shows_everything(battctl: Battctl, stub: Any, report: Any) -> None:
    stub.on("GET", "/v1/headroom", report)
    ended = battctl("headroom")
    assert ended.code == 0
    said = ended.out
    assert lines(said, "level ")[0] == "level reduced, 3 at once: t12 ended for want of memory"
    assert lines(said, "free by") == [
        "memory 3.0 GiB free by memory.max of /batt.slice: 1024 of 4096 MiB, 1.0 GiB promised "
        "(of which 512.0 MiB by other supervisors), 256.0 MiB in reserve",
        "threads 14 free by pids.max of /batt.slice: 498 of 512, 9 promised (of which 6 by other supervisors), "
        "64 in reserve",
    ]
    assert lines(said, "pressure ")[0] == "pressure memory 1.2 % full, 3.0 % some; CPU unknown some (of the last 10 s)"
    assert "3.50 in the last minute, CPUs 1.5" in said
    assert "1.0 GiB of 2.0 GiB free" in said
    assert "2 attempts stopped to save the rest" in said
    assert "/proc/pressure/cpu: not there" in said
    assert "memory 24.0 GiB 4.0 GiB 20.0 GiB - /proc/meminfo memory of the host" in lines(said, "of the host")
    assert "threads 512 498 14 binds /sys/fs/cgroup/batt.slice/pids.max pids.max of /batt.slice" in lines(said, "512 ")
    assert "memory 8.0 GiB 0 B 8.0 GiB each getrlimit RLIMIT_AS" in lines(said, "RLIMIT_AS")
    assert lines(said, "t12 ")[-2:][0].startswith("t12 1.0 GiB 512.0 MiB 4 1 worker.arc.tasks:score")
    assert lines(said, "t13 ") == ["t13 1.0 GiB - 4 - score"]
    assert "supervisors in the ledger (/dev/shm/batt-1000/ledger)" in said
    assert lines(said, "/home/me") == ["77 4 512.0 MiB 6 other /home/me/.local/state/batt"]
    assert lines(said, "/var/lib") == ["42 1 512.0 MiB 3 this one /var/lib/batt"]
    assert "changes of the level, 5 since battd was started" in said
    assert "  reduced      3  t12 ended for want of memory" in said


def test_headroom_in_json_is_the_report(battctl: Battctl, stub: Any, report: Any) -> None:
    stub.on("GET", "/v1/headroom", report)
    assert battctl("headroom", "--json").json == report


def test_what_is_empty_says_so(battctl: Battctl, stub: Any, report: Any) -> None:
    stub.on("GET", "/v1/headroom", empty(report))
    said = battctl("headroom").out
    for line in (
        "level    open, 3 at once",
        "pressure memory unknown full, unknown some; CPU unknown some (of the last 10 s)",
        "load     unknown in the last minute, CPUs unknown",
        "swap     none",
        "evicted  0 attempts stopped to save the rest",
        "unread   none",
        "limits: none",
        "promised to attempts that run: none",
        f"supervisors in the ledger ({empty(report)['ledger']}): none",
        "changes of the level, 0 since battd was started: none",
    ):
        assert line in said.splitlines()
    assert "other supervisors" not in said


def test_a_battd_that_knows_no_headroom_is_told_apart_from_none(battctl: Battctl, stub: Any, report: Any) -> None:
    assert battctl("headroom").code == 6  # as the API answers for what is not there
    stub.on("GET", "/v1/headroom", report | {"surprise": 1})
    ended = battctl("headroom")
    assert (ended.code, ended.err.count("\n")) == (8, 1)
    assert "battctl version" in ended.err


def test_headroom_without_battd(battctl: Battctl) -> None:
    assert battctl("headroom").code == 7


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_on_a_narrow_terminal_every_row_is_one_line(stub: Any, socket: Path, report: Any, columns: int) -> None:
    stub.on("GET", "/v1/headroom", report)
    said = on_a_terminal(columns, "--socket", str(socket), "headroom").splitlines()
    start = said.index("limits")
    tables = said[start:]
    headings = [line for line in tables if line.startswith(("promised", "supervisors", "changes"))]
    assert len(headings) == 3
    rows = [line for line in tables if line not in headings]
    assert len(rows) == 1 + 5 + 3 + 3 + 2 + 3, "the first heading, four tables, empty lines between them"
    assert all(len(line) <= columns for line in rows)
    if columns >= 80:
        assert any("binds" in line and "pids.max of /batt.slice" in line for line in rows)
    assert any("/sys/fs/cgroup/" in line for line in rows) == (columns == 200), "the source is the first to go"


def on_a_terminal(columns: int, *words: str) -> str:
    """What battctl prints on a terminal of so many columns."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, columns))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "batt_supervisor.cli.main", *words],
        stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ):  # fmt: skip
        os.close(its)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how a terminal ends
                break
            if not part:
                break
            said += part
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


# why

HELD = {
    "task": "t20", "state": "queued", "short": "memory", "missing": 300 * 2**20,
    "reason": "300 MiB of memory short: 2048 MiB needed, 3072 MiB free by memory.max of /batt.slice, 512 MiB promised",
}  # fmt: skip


def test_why_gives_the_figures_of_what_is_short(battctl: Battctl, stub: Any, report: Any) -> None:
    stub.on("GET", "/v1/tasks/t20/why", HELD)
    stub.on("GET", "/v1/headroom", report)
    assert battctl("why", "t20").out.splitlines() == [
        f"t20 is queued: {HELD['reason']} (short: memory, {300 * 2**20} missing)",
        "  memory: needs 2.0 GiB, free 3.0 GiB by memory.max of /batt.slice: 1024 of 4096 MiB, promised 1.0 GiB "
        "(of which 512.0 MiB by other supervisors), reserve 256.0 MiB",
    ]
    threads = HELD | {"short": "threads", "missing": 3, "reason": "3 threads short: 4 needed, 14 free by pids.max"}
    stub.on("GET", "/v1/tasks/t20/why", threads)
    assert battctl("why", "t20").out.splitlines()[1] == (
        "  threads: needs 4, free 14 by pids.max of /batt.slice: 498 of 512, promised 9 (of which 6 by other "
        "supervisors), reserve 64"
    )
    assert battctl("why", "t20", "--json").json == threads | {
        "headroom": {
            "free": 14,
            "limit": "pids.max of /batt.slice: 498 of 512",
            "promised": 9,
            "promised_by_others": 6,
            "reserve": 64,
        }
    }
    stub.on("GET", "/v1/tasks/t20/why", threads | {"reason": "in words of another battd"})
    assert battctl("why", "t20").out.splitlines()[1].startswith("  threads: free 14 by ")


@pytest.mark.parametrize(
    "found",
    [
        {"state": "queued", "reason": "waits for a slot: all 2 run", "short": "slots", "missing": 1},
        {"state": "queued", "reason": "it is queued; nothing holds it, its turn comes", "short": None, "missing": None},
        {"state": "running", "reason": "attempt 2 is running", "short": None, "missing": None},
        {"state": "failed", "reason": "out_of_memory: by memory.max of /x", "short": None, "missing": None},
    ],
)
def test_why_asks_for_headroom_only_where_room_is_short(
    battctl: Battctl, stub: Any, report: Any, found: dict[str, Any]
) -> None:
    stub.on("GET", "/v1/tasks/t20/why", found | {"task": "t20"})
    stub.on("GET", "/v1/headroom", report)
    assert battctl("why", "t20").out.count("\n") == 1
    assert battctl("why", "t20", "--json").json == found | {"task": "t20"}
    assert stub.sent("GET", "/v1/headroom") == []


def test_why_does_without_headroom(battctl: Battctl, stub: Any) -> None:
    stub.on("GET", "/v1/tasks/t20/why", HELD)
    for _ in ("not found", "refused"):
        ended = battctl("why", "t20")
        assert (ended.code, ended.out.count("\n"), ended.err) == (0, 1, "")
        assert battctl("why", "t20", "--json").json == HELD
        stub.refuse("GET", "/v1/headroom", 500, "error", "a defect")


@pytest.mark.parametrize(
    ("outcome", "state", "told"),
    [
        ("out_of_memory", "queued", True),
        ("out_of_threads", "queued", True),
        ("crashed", "queued", False),
        ("out_of_memory", "running", False),
    ],
)
def test_why_names_the_limit_that_the_last_attempt_failed_by(
    battctl: Battctl, stub: Any, task_result: Make, outcome: str, state: str, told: bool
) -> None:
    attempt = {
        "number": 2, "claimed_at_ms": 1_000, "ended_at_ms": 2_000, "outcome": outcome, "reason": "by memory.max of /x",
        "wall_s": 1.0, "cpu_s": 0.5, "peak_memory_bytes": 1, "peak_threads": 3, "exit_code": None, "signal": None,
        "worker_pid": 9, "error": None,
    }  # fmt: skip
    task = task_result(19, state=state, outcome=None, attempt=2)
    stub.on("GET", "/v1/tasks/t20", {"task": task, "function": "m:f", "command": None, "attempts": [attempt]})
    stub.on("GET", "/v1/tasks/t20/why", {"task": "t20", "state": state, "reason": "waits for a slot: all 2 run"})
    said = battctl("why", "t20").out
    assert (f"\n  attempt 2 ended with {outcome}: by memory.max of /x\n" in said) == told
    # Said already: the sentence of a task that waits for its next attempt has it.
    sentence = "it waits for its next attempt after: by memory.max of /x"
    stub.on("GET", "/v1/tasks/t20/why", {"task": "t20", "state": "scheduled", "reason": sentence})
    assert battctl("why", "t20").out == f"t20 is scheduled: {sentence}\n"


@pytest.mark.parametrize(
    ("need", "said"),
    [(Space(3 * GIB, 1), "3072 MiB"), (Space(GIB + 1, 500), "500"), (Space(2**62, 1), "4398046511104 MiB")],
)
def test_the_need_is_read_from_what_admission_says(need: Space, said: str) -> None:
    room = Free(Space(GIB, 100), "memory of the host: 1 of 2 MiB", "pids.max of /x: 1 of 101", Space(8 * GIB, 1000))
    nothing = Space(0, 0)
    hold = admit(Need(need), free=room, promised=nothing, reserve=nothing, alone=False)
    assert isinstance(hold, Hold)
    found = NEEDED.search(hold.reason)
    assert found and found[1] == said


# doctor


def test_doctor_tells_what_battd_says_of_headroom(
    battctl: Battctl, stub: Any, report: Any, run_info: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batt_supervisor.cli import doctor

    monkeypatch.setattr(doctor, "_machine", lambda host: iter(()))
    service = {
        "version": "1", "pid": 42, "started_at_ms": 1_000, "draining": False, "state_dir": "/tmp", "socket": "/s",
        "python_path": [], "width": 2, "store": "ok", "counts": {}, "outcomes": {}, "slots": [], "holds": {},
        "runs": [], "headroom": report["headroom"],
    }  # fmt: skip
    stub.on("GET", "/v1/service", service)
    stub.on("GET", "/v1/headroom", report)

    def found() -> dict[str, tuple[str, str]]:
        return {one["name"]: (one["level"], one["found"]) for one in battctl("doctor", "--json").json["checks"]}

    said = found()
    assert said["level"] == ("warn", "reduced, 3 at once: t12 ended for want of memory")
    assert said["not read"] == ("warn", "/proc/pressure/cpu: not there")
    assert said["ledger"] == ("ok", "/dev/shm/batt-1000/ledger, shared with 1 other supervisor")
    stub.on("GET", "/v1/service", service | {"headroom": empty(report)["headroom"]})
    stub.on("GET", "/v1/headroom", empty(report))
    said = found()
    assert "level" not in said
    assert "not read" not in said
    assert said["ledger"] == ("warn", empty(report)["ledger"])
