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
from batt_supervisor.cli.doctor import Host
from batt_supervisor.cli.main import run
from batt_supervisor.testing import eventually

Battctl = Callable[..., Any]
Make = Callable[..., dict[str, Any]]

COMMANDS = (
    "submit", "status", "results", "logs", "events", "wait", "cancel", "retry", "why", "headroom", "doctor", "version",
    "check", "backup", "restore", "prune",
)  # fmt: skip


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
            "memory_reserve_bytes": 2**28, "threads_reserve": 64, "level": "open", "level_reason": "", "width": 2,
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


WITHOUT_WORDS = ("submit", "headroom", "doctor", "version", "status", "events", "check", "prune")
"""Commands that go without an argument."""


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in WITHOUT_WORDS])
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
    assert "level" not in said
    assert battctl("status", "--json").json == service
    service["headroom"] |= {"level": "reduced", "level_reason": "out_of_memory by the host", "width": 1}
    stub.on("GET", "/v1/service", service)
    assert "level   reduced, 1 at once: out_of_memory by the host\n" in battctl("status").out


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
    monkeypatch.setattr(doctor, "_machine", lambda host: iter(()))
    ended = battctl("doctor", "--json")
    assert (ended.code, ended.json["ok"]) == (0, True)
    levels = {check["name"]: check["level"] for check in ended.json["checks"]}
    assert levels["battd"] == "ok"
    assert levels["hold"] == "warn"
    assert "ledger" not in levels  # a battd that is too old to tell
    assert "cgroup v1 and /proc" in [check["found"] for check in ended.json["checks"]]
    stub.refuse("GET", "/v1/service", 503, "store_unavailable", "no disk")
    ended = battctl("doctor")
    assert ended.code == 1
    assert "no disk" in ended.out


def test_doctor_reads_the_machine(battctl: Battctl) -> None:
    ended = battctl("doctor", "--json")
    assert ended.code == 1  # no battd
    names = list(dict.fromkeys(check["name"] for check in ended.json["checks"]))
    assert [name for name in names if name != "systemd"] == [
        "python", "battd", "state directory", "control groups", "process trees", "address space", "thread stacks",
        "user's processes", "kernel's threads", "threads by cgroup", "open files", "memory", "memory by cgroup", "swap",
        "overcommit", "oom score", "/dev/shm",
    ]  # fmt: skip


def test_doctor_looks_at_battd_itself_where_it_can_be_seen(service: Any) -> None:
    from batt_supervisor.cli.doctor import _host
    from batt_supervisor.wire import ServiceInfo

    command = [sys.executable, "-c", "import time; time.sleep(600)", "battd"]
    with subprocess.Popen(command) as process:
        try:
            asked = ServiceInfo(**service | {"pid": process.pid})
            eventually("it is what it was started as", lambda: _host(asked).process == str(process.pid))
            here = _host(asked)
            assert here.slots == 2
            assert here.limit("Max open files") is not None
        finally:
            process.kill()
    # Of another pid namespace: here the number means a process that is no battd, or none.
    elsewhere = _host(ServiceInfo(**service | {"pid": 2**22 + 1}))
    assert (elsewhere.process, elsewhere.slots) == ("self", 2)


MOUNTS = """\
1 0 0:1 / / rw - ext4 /dev/vda rw
2 1 0:2 / /dev/shm rw - tmpfs tmpfs rw
3 1 0:3 / /net\\040disk rw - nfs4 server:/ rw
4 1 0:4 / /tmp rw - tmpfs tmpfs rw
"""
V1 = """\
5 1 0:5 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
6 1 0:6 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""
V2 = "5 1 0:5 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
IN_X = {"proc/self/cgroup": "5:pids:/x\n4:memory:/x/y\n0::/\n", "proc/self/mountinfo": MOUNTS + V1}
IN_UNIT = {"proc/self/cgroup": "0::/batt.slice/batt.service\n", "proc/self/mountinfo": MOUNTS + V2}
UNIT = "sys/fs/cgroup/batt.slice/batt.service"
OF_SYSTEMD = {"proc/self/environ": "INVOCATION_ID=1\0"}


def limits(**over: str) -> dict[str, str]:
    """/proc/self/limits, some of them changed."""
    known = {
        "Max address space": "unlimited unlimited", "Max stack size": "8388608 unlimited",
        "Max open files": "1024 524288", "Max processes": "30000 30000",
    }  # fmt: skip
    lines = (known | {name.replace("_", " "): value for name, value in over.items()}).items()
    text = "".join(f"{name:25} {'  '.join(value.split())}  units\n" for name, value in lines)
    return {"proc/self/limits": "Limit  Soft Limit  Hard Limit  Units\n" + text}


def meminfo(**mib: int) -> dict[str, str]:
    """/proc/meminfo, in MiB."""
    known = {"MemTotal": 24576, "MemAvailable": 16384, "SwapTotal": 0, "SwapFree": 0} | mib
    return {"proc/meminfo": "".join(f"{name}: {value * 1024} kB\n" for name, value in known.items())}


def user(uid: int, **threads: int) -> dict[str, str]:
    """The process's own user, and processes with so many threads of it."""
    found = {"proc/self/status": f"Name: x\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"}
    for pid, count in threads.items():
        found[f"proc/{pid.strip('p')}/status"] = f"Uid:\t{uid}\t{uid}\nThreads:\t{count}\n"
    return found


def kernel(used: int, threads_max: int, pid_max: int) -> dict[str, str]:
    return {
        "proc/loadavg": f"0.1 0.2 0.3 2/{used} 4711",
        "proc/sys/kernel/threads-max": f"{threads_max}\n",
        "proc/sys/kernel/pid_max": f"{pid_max}\n",
    }


def commit(mode: int, left_mib: int = 0) -> dict[str, str]:
    of_memory = meminfo(CommitLimit=32768, Committed_AS=32768 - left_mib)
    return {"proc/sys/vm/overcommit_memory": f"{mode}\n", **of_memory}


def build(root: Path, files: dict[str, str]) -> Path:
    """A file system to look at; a name that ends with a slash is a folder."""
    for name, text in files.items():
        place = root / name
        if name.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    return root


V1_BOTH = IN_X | {f"sys/fs/cgroup/{name}/cgroup.procs": "" for name in ("pids/x", "memory/x/y")}
V2_UNIT = IN_UNIT | {f"{UNIT}/cgroup.procs": ""}
ROOMY = meminfo() | {f"{UNIT}/cgroup.procs": ""} | IN_UNIT
CHILDREN = {"proc/self/task/1/children": ""}

ROWS = [
    (checks.control_groups, V1_BOTH, Level.OK, "v1, writable: pids of /x and memory of /x/y"),
    (checks.control_groups, IN_X | {"sys/fs/cgroup/pids/x/cgroup.procs": ""}, Level.WARN, "writable: pids of /x"),
    (checks.control_groups, V2_UNIT | {f"{UNIT}/cgroup.controllers": "cpu memory pids"}, Level.OK, "cpu, memory, pids"),
    (checks.control_groups, V2_UNIT | {f"{UNIT}/cgroup.controllers": ""}, Level.WARN, "with no controllers"),
    (checks.control_groups, IN_UNIT | {f"{UNIT}/": ""}, Level.WARN, "none is writable (v2 /batt.slice/batt.service)"),
    (checks.control_groups, {}, Level.WARN, "none can be seen"),
    (checks.kill_method, CHILDREN, Level.OK, "below subreapers"),
    (checks.kill_method, {}, Level.WARN, "searched for in /proc"),
    (checks.address_space, limits(), Level.OK, "unlimited"),
    (checks.address_space, limits(Max_address_space="1073741824 x"), Level.OK, "some 93 threads in a process"),
    (checks.address_space, limits(Max_address_space="134217728 x"), Level.BAD, "some 11 threads in a process"),
    (checks.stack, limits(), Level.OK, "8.0 MiB"),
    (checks.stack, limits(Max_stack_size="unlimited unlimited"), Level.WARN, "unlimited"),
    (checks.stack, limits(Max_stack_size="1073741824 x"), Level.WARN, "1.0 GiB"),
    (checks.stack, {}, Level.WARN, "cannot be read"),
    (checks.user_processes, limits(Max_processes="100 100") | user(0, p7=90), Level.OK, "100, not binding for root"),
    (checks.user_processes, limits(Max_processes="100 100") | user(9, p7=90), Level.BAD, "90 of 100 in use"),
    (checks.user_processes, limits(Max_processes="500 x") | user(9, p7=60, p8=40), Level.WARN, "100 of 500 in use"),
    (checks.user_processes, limits(Max_processes="unlimited x") | user(9, p7=90), Level.OK, "unlimited"),
    (checks.kernel_threads, kernel(100, 30_000, 32_768), Level.OK, "100 of 30000 in use (kernel.threads-max)"),
    (checks.kernel_threads, kernel(32_760, 99_000, 32_768), Level.BAD, "kernel.pid_max"),
    (checks.kernel_threads, kernel(29_000, 30_000, 32_768), Level.WARN, "29000 of 30000"),
    (checks.kernel_threads, kernel(100, 3_000, 32_768), Level.WARN, "100 of 3000"),
    (checks.kernel_threads, {}, Level.WARN, "limits cannot be read"),
    (checks.group_threads, ROOMY, Level.OK, "no group"),
    (checks.group_threads, ROOMY | {f"{UNIT}/pids.max": "max"}, Level.OK, "no group"),
    (
        checks.group_threads,
        ROOMY | {"sys/fs/cgroup/batt.slice/pids.max": "512", "sys/fs/cgroup/batt.slice/pids.current": "498"},
        Level.BAD,
        "498 of 512 in use (pids.max of /batt.slice)",
    ),
    (
        checks.group_threads,
        IN_X | {"sys/fs/cgroup/pids/x/pids.max": "4096", "sys/fs/cgroup/pids/x/pids.current": "8"},
        Level.OK,
        "8 of 4096 in use (pids.max of /x)",
    ),
    (checks.open_files, limits(Max_open_files="1024 x"), Level.OK, "battd needs 292 for 3 slots"),
    (checks.open_files, limits(Max_open_files="256 4096"), Level.WARN, "256 of 4096"),
    (checks.open_files, limits(Max_open_files="64 unlimited"), Level.BAD, "64 of unlimited"),
    (checks.open_files, limits(Max_open_files="1024 147"), Level.BAD, "1024 of 147"),
    (checks.memory, meminfo(), Level.OK, "16.0 GiB of 24.0 GiB available"),
    (checks.memory, meminfo(MemAvailable=512), Level.WARN, "512.0 MiB"),
    (checks.memory, meminfo(MemAvailable=1), Level.BAD, "1.0 MiB"),
    (checks.memory, {}, Level.WARN, "cannot be read"),
    (checks.group_memory, ROOMY, Level.OK, "no group"),
    (
        checks.group_memory,
        meminfo()
        | IN_X
        | {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(2 << 30),
            "sys/fs/cgroup/memory/x/memory.usage_in_bytes": str(2 << 30),
            "sys/fs/cgroup/memory/x/memory.stat": f"cache 5\ntotal_inactive_file {1 << 30}\n",
            "sys/fs/cgroup/memory/x/y/memory.limit_in_bytes": "9223372036854771712",
        },
        Level.OK,
        "memory.limit_in_bytes of /x: 2.0 GiB, 1.0 GiB free; the host has 24.0 GiB: tasks are admitted by the smaller",
    ),
    (
        checks.group_memory,
        ROOMY | {f"{UNIT}/memory.max": str(1 << 30), f"{UNIT}/memory.current": str(1 << 30)},
        Level.WARN,
        "memory.max of /batt.slice/batt.service: 1.0 GiB, 0 B free",
    ),
    (checks.group_memory, ROOMY | {f"{UNIT}/memory.high": str(2 << 30)}, Level.OK, "memory.high of /batt.slice/batt"),
    (checks.swap, meminfo(), Level.OK, "none"),
    (checks.swap, meminfo(SwapTotal=2048, SwapFree=1024), Level.OK, "1.0 GiB of 2.0 GiB free"),
    (checks.swap, meminfo(SwapTotal=2048, SwapFree=20), Level.WARN, "20.0 MiB of 2.0 GiB free"),
    (checks.overcommit, commit(0), Level.OK, "0, by the kernel's judgement"),
    (checks.overcommit, commit(1), Level.OK, "1, nothing is refused"),
    (checks.overcommit, commit(2, left_mib=20480), Level.OK, "20.0 GiB of 32.0 GiB"),
    (checks.overcommit, commit(2, left_mib=1024), Level.WARN, "2, strict: 1.0 GiB of 32.0 GiB"),
    (checks.overcommit, commit(2, left_mib=10), Level.BAD, "10.0 MiB"),
    (checks.overcommit, {}, Level.OK, "unknown"),
    (checks.oom_score, {"proc/self/oom_score_adj": "0\n"}, Level.OK, "battd 0, workers 500"),
    (checks.oom_score, {"proc/self/oom_score_adj": "-900\n"}, Level.OK, "battd -900"),
    (checks.oom_score, {"proc/self/oom_score_adj": "200\n"}, Level.WARN, "battd 200"),
    (checks.oom_score, {}, Level.WARN, "cannot be read"),
    (checks.systemd, IN_UNIT | OF_SYSTEMD, Level.WARN, "batt.service: OOMPolicy=stop, Delegate=no"),
    (checks.shared_memory, {"proc/self/mountinfo": MOUNTS, "dev/shm/": ""}, Level.OK, "writable (tmpfs)"),
    (checks.shared_memory, {"proc/self/mountinfo": MOUNTS.replace("tmpfs", "9p"), "dev/shm/": ""}, Level.WARN, "9p"),
    (checks.shared_memory, {}, Level.WARN, "is not there"),
]


def has_systemd(words: list[str]) -> str:
    return "OOMPolicy=stop\nDelegate=no\n" if words[-1] == "batt.service" else ""


@pytest.mark.parametrize(("check", "files", "level", "found"), ROWS)
def test_a_check_judges_and_advises(
    tmp_path: Path, check: Callable[[Host], Any], files: dict[str, str], level: Level, found: str
) -> None:
    host = Host(build(tmp_path, files), slots=3, subreaper=lambda: True, systemctl=has_systemd)
    (said,) = check(host)
    assert found in said.found
    assert said.level is level
    assert bool(said.advice) == (level is not Level.OK)
    assert "\n" not in said.found + said.advice


def test_every_check_of_the_machine_has_its_rows() -> None:
    assert {check for check, *_ in ROWS} == set(checks.MACHINE)


def test_every_check_bears_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, subreaper=lambda: False, systemctl=lambda words: "")
    found = [said for check in checks.MACHINE for said in check(host)]
    assert all(bool(said.advice) == (said.level is not Level.OK) for said in found)
    assert "there are no subreapers" in [said.found for said in found]


@pytest.mark.parametrize(
    ("files", "answer", "asked"),
    [
        (IN_UNIT, "", None),  # no INVOCATION_ID in its environment: it only happens to be below a service
        (OF_SYSTEMD | {"proc/self/cgroup": "0::/user.slice/user-1000.slice/session-3.scope\n"}, "", None),
        (IN_UNIT | OF_SYSTEMD, "Delegate=yes\nOOMPolicy=continue\n", ["batt.service"]),
        (
            OF_SYSTEMD | {"proc/self/cgroup": "0::/user.slice/user@1000.service/app.slice/b.service/supervisor\n"},
            "Delegate=yes\nOOMPolicy=continue\n",
            ["--user", "b.service"],
        ),
    ],
)
def test_systemd_is_asked_about_battds_own_unit_only(
    tmp_path: Path, files: dict[str, str], answer: str, asked: list[str] | None
) -> None:
    calls: list[list[str]] = []

    def systemctl(words: list[str]) -> str:
        calls.append([word for word in words if word == "--user" or word.endswith(".service")])
        return answer

    files = {"proc/self/environ": "A=b\0"} | files
    found = list(checks.systemd(Host(build(tmp_path, files), systemctl=systemctl)))
    assert calls == ([] if asked is None else [asked])
    assert [said.level for said in found] == ([] if asked is None else [Level.OK])


@pytest.mark.parametrize(
    ("path", "level", "found"),
    [
        ("/there", Level.OK, "/there (ext4)"),
        ("/there/not/yet", Level.OK, "/there/not/yet (ext4), not made yet"),
        ("/net disk/state", Level.BAD, "(nfs4)"),
        ("/tmp/state", Level.WARN, "(tmpfs, in memory)"),
        ("/file/state", Level.BAD, "/file/state cannot be made"),
    ],
)
def test_the_state_directory_is_on_a_disk_of_this_machine(tmp_path: Path, path: str, level: Level, found: str) -> None:
    files = {"proc/self/mountinfo": MOUNTS, "there/": "", "net disk/": "", "tmp/": "", "file": ""}
    said = checks.state_dir(Host(build(tmp_path, files)), path, mine=True)
    assert (said.level, found in said.found) == (level, True)
    assert bool(said.advice) == (level is not Level.OK)


def test_a_folder_that_is_not_writable_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's answer: as root every folder is."""
    host = Host(build(tmp_path, {"proc/self/mountinfo": MOUNTS, "there/": "", "dev/shm/": ""} | V1_BOTH))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert checks.state_dir(host, "/there", mine=True).found == "/there is not writable"
    assert checks.state_dir(host, "/there", mine=False).level is Level.OK
    assert "is not writable" in next(checks.shared_memory(host)).found
    assert next(checks.control_groups(host)).found == "none is writable (v1 pids of /x)"


def test_the_groups_of_another_users_battd_are_not_judged_by_our_rights(tmp_path: Path) -> None:
    files = {"proc/5/status": f"Uid:\t{os.getuid() + 1}\t0\n"}
    assert list(checks.control_groups(Host(build(tmp_path, files), process="5"))) == []


def test_what_is_known_of_battd_is_what_battd_does() -> None:
    from batt_supervisor.daemon import main as daemon

    assert (checks.BATTD_FILES, checks.SLOT_FILES) == (daemon.FILES, daemon.SLOT_FILES)
    boot = Path(checks.__file__).parent.parent.parent / "worker" / "boot.py"
    assert f'write("{checks.WORKER_SCORE}")' in boot.read_text()


@pytest.mark.parametrize(
    ("check", "level"),
    [
        (checks.python((3, 10, 2)), Level.BAD),
        (checks.python((3, 11, 0)), Level.OK),
        (checks.versions("1", "1"), Level.OK),
        (checks.versions("1", "2"), Level.WARN),
    ],
)
def test_versions_are_judged(check: checks.Check, level: Level) -> None:
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
