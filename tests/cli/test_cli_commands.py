"""The other commands against the stub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor import __version__
from batt_supervisor.cli import checks
from batt_supervisor.cli.checks import Level
from batt_supervisor.cli.main import run

Battctl = Callable[..., Any]
Make = Callable[..., dict[str, Any]]

COMMANDS = ("submit", "status", "results", "logs", "wait", "cancel", "retry", "why", "doctor", "version")


@pytest.fixture
def service(run_info: Make) -> dict[str, Any]:
    return {
        "version": __version__, "pid": 42, "started_at_ms": 1_000, "draining": False, "state_dir": "/tmp",
        "socket": "/s", "python_path": [], "start_method": "nursery", "kill_by": "cgroup v1 and /proc", "width": 2,
        "store": "ok", "counts": {"queued": 3}, "outcomes": {"ok": 1},
        "slots": [
            {
                "slot": 0, "phase": "idle", "worker_pid": 77, "served": 5, "renewed": 1, "cwd": "/", "task": None,
                "progress": None,
            },
            {
                "slot": 1, "phase": "busy", "worker_pid": 78, "served": 5, "renewed": 1, "cwd": "/", "task": "t12",
                "progress": [3.0, 10.0],
            },
        ],
        "headroom": {
            "memory_free_bytes": 2**30, "memory_limit": "memory of the host", "threads_free": 100,
            "threads_limit": "kernel.pid_max", "memory_promised_bytes": 0, "threads_promised": 0,
            "memory_reserve_bytes": 2**28, "threads_reserve": 64,
        },
        "holds": {"r7": "pids.max of /batt.slice: 498 of 512"}, "runs": [run_info()],
    }  # fmt: skip


@pytest.fixture
def task_info(task_result: Make) -> dict[str, Any]:
    error = {"type": "ValueError", "message": "no", "traceback": "Traceback: line 1\nValueError: no\n"}
    attempt = {
        "number": 1, "claimed_at_ms": 1_000, "ended_at_ms": 2_000, "outcome": "exception", "reason": "ValueError: no",
        "wall_s": 1.0, "cpu_s": 0.5, "peak_memory_bytes": 1, "peak_threads": 73, "exit_code": None,
        "signal": None, "worker_pid": 9, "error": error,
    }  # fmt: skip
    task = task_result(11, state="failed", outcome="exception", reason="ValueError: no", value=None, error=error)
    return {"task": task, "function": "m:f", "command": None, "attempts": [attempt]}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(battctl: Battctl, command: str) -> None:
    ended = battctl(command, "--help")
    assert ended.code == 0
    assert f"Examples:\n    battctl {command}" in ended.out.replace("    ls *.png | ", "    ")
    assert "--json" in ended.out
    assert "--socket" in ended.out


def test_help_names_every_command(battctl: Battctl) -> None:
    said = battctl("--help").out
    assert all(f"\n  {command} " in said for command in COMMANDS)


def test_an_unknown_command_names_the_nearest(battctl: Battctl) -> None:
    ended = battctl("statsu")
    assert ended.code == 2
    assert "'status'" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("submit", "doctor", "version", "status")])
def test_a_missing_argument_is_bad_input(battctl: Battctl, command: str) -> None:
    ended = battctl(command)
    assert (ended.code, ended.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "m:f"),
        ("status",),
        ("results", "r1"),
        ("logs", "t1"),
        ("wait", "r1"),
        ("cancel", "r1"),
        ("why", "t1"),
    ],
)
def test_without_battd_every_command_says_so(battctl: Battctl, words: tuple[str, ...]) -> None:
    ended = battctl(*words)
    assert ended.code == 7
    assert ended.err.startswith("battctl: no battd: ")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("status", "r99"), ("results", "r99"), ("wait", "r99"), ("cancel", "t9"), ("why", "9")]
)
def test_what_is_not_there_is_not_found(battctl: Battctl, stub: Any, words: tuple[str, ...]) -> None:
    assert battctl(*words).code == 6


@pytest.mark.parametrize("words", [("status", "a/b"), ("wait", ""), ("logs", ".."), ("cancel", " ")])
def test_what_can_be_no_name_is_bad_input(battctl: Battctl, stub: Any, words: tuple[str, ...]) -> None:
    ended = battctl(*words)
    assert (ended.code, stub.requests) == (2, [])


def test_options_stand_before_or_behind_the_command(
    stub: Any, socket: Path, service: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    stub.on("GET", "/v1/service", service)
    for words in (["--socket", str(socket), "status"], ["status", "--socket", str(socket)]):
        assert run(words) == 0
    assert run(["--socket", "/none", "status", "--socket", str(socket)]) == 0
    capfd.readouterr()
    assert run(["--json", "--state-dir", str(socket.parent), "status"]) == 0
    assert capfd.readouterr().out.startswith("{")


def test_status_shows_the_service(battctl: Battctl, stub: Any, service: Any) -> None:
    stub.on("GET", "/v1/service", service)
    said = battctl("status").out
    for word in (
        __version__,
        "pid 42",
        "1.0 GiB free",
        "pids.max of /batt.slice",
        "arc",
        "3 queued",
        "1 ok",
        "77",
        "t12 3/10",
    ):
        assert word in said
    assert battctl("status", "--json").json == service


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (None, "t5"),
        ((3, 10), "t5 3/10"),
        ((0.25, 1), "t5 0.25/1"),
        ((7, 0), "t5 7"),
        ((1e6, 2.5e6), "t5 1e+06/2.5e+06"),
    ],
)
def test_a_slot_shows_how_far_its_task_is(progress: tuple[float, float] | None, shown: str) -> None:
    from batt_supervisor.cli.status import _doing
    from batt_supervisor.wire import SlotInfo

    slot = SlotInfo(slot=1, phase="busy", worker_pid=1, served=0, renewed=0, cwd="/", task="t5", progress=progress)
    assert _doing(slot) == shown


def test_status_shows_a_run(battctl: Battctl, stub: Any, run_info: Make) -> None:
    stub.on("GET", "/v1/runs/arc", run_info(hold="waits for memory", deadline_at_ms=5_000))
    said = battctl("status", "arc").out
    for word in ("run r7 'arc' running", "waits for memory", "m:f", "1 succeeded, 3 queued"):
        assert word in said
    assert battctl("status", "arc", "--json").json["counts"] == {"succeeded": 1, "queued": 3}


def test_status_shows_a_task(battctl: Battctl, stub: Any, task_info: Any) -> None:
    stub.on("GET", "/v1/tasks/t12", task_info)
    said = battctl("status", "t12").out
    for word in ("t12 failed: task 11 of run r7", "exception", "ValueError: no", "m:f", "THREADS", "73"):
        assert word in said
    assert battctl("status", "t12", "--json").json == task_info


def test_results_have_exactly_the_fields_of_the_api(battctl: Battctl, stub: Any, task_result: Make) -> None:
    items = [task_result(0), task_result(1, value="\ud800 ü")]
    stub.on("GET", "/v1/runs/r7/results", {"items": items, "next": None, "ended": True})
    import json

    lines = battctl("results", "r7", "--jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == items
    assert list(json.loads(lines[0])) == [
        "id", "run", "stage", "index", "key", "args", "state", "outcome", "reason", "attempt", "wall_s", "cpu_s",
        "peak_memory_bytes", "value", "error",
    ]  # fmt: skip
    assert battctl("results", "r7", "--json").json == items


def test_no_results_are_an_empty_array(battctl: Battctl, stub: Any) -> None:
    stub.on("GET", "/v1/runs/r7/results", {"items": [], "next": None, "ended": True})
    assert battctl("results", "r7", "--json").json == []
    assert battctl("results", "r7", "--jsonl").out == ""


def test_a_table_is_not_cut_where_no_terminal_is(battctl: Battctl, stub: Any, task_result: Make) -> None:
    long = "x" * 500
    items = [task_result(0, args=[long], value=long), task_result(1, state="queued", outcome=None, value=None)]
    stub.on("GET", "/v1/runs/r7/results", {"items": items, "next": None, "ended": False})
    said = battctl("results", "r7").out
    assert said.count(long) == 2
    assert "t2" in said
    assert "t2" not in battctl("results", "r7", "--settled").out


@pytest.mark.parametrize("marked", [True, False])
def test_follow_gives_each_task_once_until_the_run_ends(
    battctl: Battctl, stub: Any, run_info: Make, task_result: Make, marked: bool
) -> None:
    """Whether battd gives a mark to go on from behind a page that is not full, or none."""
    looks = 0

    def see_run(_request: Any) -> tuple[int, Any]:
        nonlocal looks
        looks += 1
        return 200, run_info(state="succeeded" if looks == 3 else "running")

    def page(request: Any) -> tuple[int, Any]:
        after, settled = int(request.query.get("after", -1)), looks * 2
        items = [task_result(index) for index in range(after + 1, settled)]
        return 200, {"items": items, "next": settled - 1 if items and marked else None, "ended": looks == 3}

    stub.routes["GET", "/v1/runs/r7"] = see_run
    stub.routes["GET", "/v1/runs/r7/results"] = page
    ended = battctl("results", "r7", "--follow", "--json")
    assert ended.code == 0
    assert [item["index"] for item in ended.json] == [0, 1, 2, 3, 4, 5]


def test_follow_of_a_state_that_never_settles_is_refused(battctl: Battctl, stub: Any) -> None:
    assert battctl("results", "r7", "--follow", "--state", "queued").code == 2
    assert battctl("results", "r7", "--state", "nonsense").code == 2


def test_logs_show_the_output_and_the_traceback(battctl: Battctl, stub: Any, task_info: Any) -> None:
    stub.on("GET", "/v1/tasks/t12", task_info)
    stub.on("GET", "/v1/tasks/t12/log", {"task": "t12", "attempt": 1, "text": "hello\nworld", "truncated": True})
    ended = battctl("logs", "t12", "--tail", "1KiB")
    assert ended.out.startswith("==> t12, attempt 1 of 1: exception (ValueError: no)\n")
    assert "hello\nworld\n" in ended.out
    assert "Traceback: line 1" in ended.out
    assert "only the last 11 B" in ended.out
    assert stub.requests[-1].query == {"attempt": "1", "tail_bytes": "1024"}
    assert battctl("logs", "t12", "--json").json["log"]["text"] == "hello\nworld"


def test_a_task_without_an_attempt_has_no_log(battctl: Battctl, stub: Any, task_info: Any) -> None:
    stub.on("GET", "/v1/tasks/12", task_info | {"attempts": []})
    ended = battctl("logs", "12")
    assert (ended.code, ended.out) == (0, "")
    assert "has had no attempt" in ended.err


@pytest.mark.parametrize(
    ("words", "path", "query"),
    [
        (("cancel", "r7"), "/v1/runs/r7/cancel", {}),
        (("cancel", "t12"), "/v1/tasks/t12/cancel", {}),
        (("cancel", "tidy up"), "/v1/runs/tidy%20up/cancel", {}),
        (("retry", "r7"), "/v1/runs/r7/retry", {}),
        (("retry", "r7", "--state", "failed"), "/v1/runs/r7/retry", {"state": "failed"}),
        (("retry", "t12"), "/v1/tasks/t12/retry", {}),
    ],
)
def test_cancel_and_retry_a_run_or_a_task(
    battctl: Battctl, stub: Any, words: tuple[str, ...], path: str, query: dict[str, str]
) -> None:
    stub.on("POST", path, {"run": "r7", "tasks": 2})
    assert "2 tasks" in battctl(*words).out
    assert stub.requests[-1].query == query
    assert battctl(*words, "--json").json == {"run": "r7", "tasks": 2}


def test_a_state_does_not_go_with_one_task(battctl: Battctl, stub: Any) -> None:
    assert battctl("retry", "t12", "--state", "failed").code == 2


def test_why_prints_the_reason(battctl: Battctl, stub: Any) -> None:
    why = {"task": "t12", "state": "queued", "reason": "pids.max of /x: 498 of 512", "short": "threads", "missing": 3}
    stub.on("GET", "/v1/tasks/t12/why", why)
    assert "pids.max of /x: 498 of 512 (short: threads, 3 missing)" in battctl("why", "t12").out
    assert battctl("why", "t12", "--json").json == why


def test_version_names_both_and_a_difference(battctl: Battctl, stub: Any, service: Any) -> None:
    stub.on("GET", "/v1/service", service | {"version": "9.9", "new_field": 1})
    said = battctl("version").out
    assert __version__ in said
    assert "9.9" in said
    assert "differ" in said
    assert battctl("version", "--json").json["battd"] == "9.9"


def test_version_needs_no_battd(battctl: Battctl) -> None:
    ended = battctl("version")
    assert ended.code == 0
    assert "not reached" in ended.out
    assert battctl("--version").out == f"{__version__}\n"


def test_doctor_is_content_with_a_battd_and_not_without(
    battctl: Battctl, stub: Any, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batt_supervisor.cli import doctor

    stub.on("GET", "/v1/service", service)
    # The machine that the tests run on may be in a bad state of its own.
    monkeypatch.setattr(doctor, "_machine", lambda: iter(()))
    ended = battctl("doctor", "--json")
    assert (ended.code, ended.json["ok"]) == (0, True)
    levels = {check["name"]: check["level"] for check in ended.json["checks"]}
    assert levels["battd"] == "ok"
    assert levels["hold"] == "warn"
    assert "cgroup v1 and /proc" in [check["found"] for check in ended.json["checks"]]
    stub.refuse("GET", "/v1/service", 503, "store_unavailable", "no disk")
    ended = battctl("doctor")
    assert ended.code == 1
    assert "no disk" in ended.out


def test_doctor_reads_the_machine(battctl: Battctl) -> None:
    ended = battctl("doctor", "--json")
    assert ended.code == 1  # no battd
    names = [check["name"] for check in ended.json["checks"]]
    assert names == [
        "python", "battd", "state directory", "address space", "user's processes", "kernel's threads", "open files",
        "memory", "kill method",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "level"),
    [
        (checks.python((3, 10, 2)), Level.BAD),
        (checks.python((3, 11, 0)), Level.OK),
        (checks.versions("1", "1"), Level.OK),
        (checks.versions("1", "2"), Level.WARN),
        (checks.address_space(None, None), Level.OK),
        (checks.address_space(2**30, None), Level.BAD),
        (checks.address_space(2**30, "2"), Level.OK),
        (checks.address_space(2**34, None), Level.WARN),
        (checks.processes(100, 90, root=True), Level.OK),
        (checks.processes(100, 90, root=False), Level.BAD),
        (checks.processes(None, 90, root=False), Level.OK),
        (checks.kernel_threads(100, 30_000, 32_768), Level.OK),
        (checks.kernel_threads(29_990, 30_000, 32_768), Level.BAD),
        (checks.kernel_threads(29_000, 30_000, 32_768), Level.WARN),
        (checks.kernel_threads(1, None, None), Level.WARN),
        (checks.open_files(256, 4096), Level.WARN),
        (checks.open_files(64, None), Level.BAD),
        (checks.open_files(None, None), Level.OK),
        (checks.memory(2**32, 2**33), Level.OK),
        (checks.memory(2**29, 2**33), Level.WARN),
        (checks.memory(2**20, 2**33), Level.BAD),
        (checks.kill_method(children_file=True, cgroup=None), Level.OK),
        (checks.kill_method(children_file=False, cgroup="/x"), Level.WARN),
        (checks.state_dir("/x", exists=True, writable=True, mine=True, file_system="ext4"), Level.OK),
        (checks.state_dir("/x", exists=True, writable=False, mine=True, file_system="ext4"), Level.BAD),
        (checks.state_dir("/x", exists=True, writable=False, mine=False, file_system="ext4"), Level.OK),
        (checks.state_dir("/x", exists=True, writable=True, mine=True, file_system="nfs4"), Level.BAD),
        (checks.state_dir("/x", exists=True, writable=True, mine=True, file_system="tmpfs"), Level.WARN),
    ],
)
def test_a_check_judges_and_advises(check: checks.Check, level: Level) -> None:
    assert check.level is level
    assert bool(check.advice) == (level is not Level.OK)


def test_a_defect_of_battctl_is_not_taken_for_a_failed_task(battctl: Battctl, monkeypatch: pytest.MonkeyPatch) -> None:
    from batt_supervisor.cli import doctor

    monkeypatch.setattr(doctor, "examine", lambda me: 1 / 0)
    ended = battctl("doctor")
    assert ended.code == 70
    assert "ZeroDivisionError" in ended.err


def test_a_reader_that_goes_away_is_no_error(stub: Any, socket: Path, task_result: Make) -> None:
    items = [task_result(index, value="x" * 1000) for index in range(1000)]
    stub.on("GET", "/v1/runs/r7/results", {"items": items, "next": None, "ended": True})
    process = subprocess.Popen(
        [sys.executable, "-m", "batt_supervisor.cli.main", "--socket", str(socket), "results", "r7", "--jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


def test_completion_offers_the_commands() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "from batt_supervisor.cli.main import main; main()"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "_BATTCTL_COMPLETE": "complete_bash",
            "COMP_WORDS": "battctl st",
            "COMP_CWORD": "1",
        },
    )
    assert said.stdout.split() == ["status"]
