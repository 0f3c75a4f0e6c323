"""Control groups: those of v1 for real, where this machine lets us; those of v2 in a folder that looks like them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batt_supervisor.pool import cgroupfs, hierarchy, proc
from batt_supervisor.pool.group import QUIET, Events, Group, Groups

ROOT = Path(hierarchy.__file__).parents[2]
PATIENCE_S = 60.0
JOIN = """
import os, signal, sys
for entrance in sys.argv[1:]:
    with open(entrance, "w") as file:
        file.write("0")
"""


def until(reached: Callable[[], bool], what: str) -> None:
    """Poll for a state, with a limit that only a broken test reaches."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, f"never reached: {what}"
        time.sleep(0.005)


def is_over(pid: int) -> bool:
    found = proc.stat(pid)
    return found is None or found.state in "ZX"


# v1, for real


@dataclass
class Machine:
    """Groups of this machine, and processes started into them."""

    groups: Groups
    name: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def make(self, label: str = "slot") -> Group:
        group = self.groups.make(label)
        assert group is not None
        return group

    def start(self, group: Group, code: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", "-c", JOIN + code, *group.entrances]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.started.append(process)
        return process

    def idle(self, group: Group) -> subprocess.Popen[bytes]:
        """A process that is in the group and does nothing."""
        process = self.start(group, "print(flush=True)\nsignal.pause()")
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return process

    def needs_memory(self) -> None:
        if "memory" not in self.groups.describe().partition("(")[0]:
            pytest.skip(f"memory cannot be limited here: {self.groups.why}")

    def left(self) -> list[str]:
        """Groups of this name that are still there, in whatever hierarchy."""
        return [
            path for place in hierarchy.own_places("auto").values() for path in cgroupfs.named(place.mount, self.name)
        ]


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Real groups of v1, of which nothing is left behind, whatever the test did."""
    if "pids" not in hierarchy.own_places("auto"):
        pytest.skip("cgroup v1 pids is not mounted here")
    name = f"batt-test-{os.getpid()}-{abs(hash(request.node.name)) % 10**8}"
    groups = Groups.find("auto", name)
    if groups.kind != "v1":
        pytest.skip(f"no cgroup v1 to be had here: {groups.why or groups.describe()}")
    found = Machine(groups, name)
    try:
        yield found
    finally:
        groups.clear()
        for process in found.started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        groups.clear()  # where those not yet reaped hold their group
        groups.close()
        left = found.left()
    assert left == []


KIN = """
def fork_and(then):
    if os.fork() == 0:
        then()
        while True:
            signal.pause()

def leave():
    os.setsid()
    if os.fork():
        os._exit(0)

def forget():
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"], {})

fork_and(os.setsid)
fork_and(leave)
fork_and(lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
fork_and(lambda: os.kill(os.getpid(), signal.SIGSTOP))
fork_and(lambda: (leave(), forget()))
print(flush=True)
while True:
    signal.pause()
"""


def has_all_kin(members: list[int]) -> bool:
    """Whether the root and its five are there, none of those between: one stopped, one bare, two with a new parent."""
    seen = [proc.stat(pid) for pid in members]
    try:
        bare = [pid for pid in members if cgroupfs.read(f"/proc/{pid}/environ") == ""]
    except OSError:
        return False
    stopped = [found for found in seen if found is not None and found.state == "T"]
    adopted = [found for found in seen if found is not None and found.parent not in members]
    return (len(members), len(bare), len(stopped), len(adopted)) == (6, 1, 1, 3)  # the root's parent is this process


def test_all_die_whatever_they_did_to_escape(machine: Machine) -> None:
    group = machine.make()
    root = machine.start(group, KIN)
    assert root.stdout is not None
    assert root.stdout.readline() == b"\n"
    until(lambda: has_all_kin(group.members()), "all five have left it, each in its way")
    members = group.members()

    assert group.kill() == 6

    assert root.wait(PATIENCE_S) == -9
    until(lambda: all(map(is_over, members)), "they are over")
    until(group.remove, "the group is removed")
    assert group.members() == []
    assert group.kill() == 0, "a group that is gone holds nothing"


def test_what_is_killed_is_what_is_in_the_group(machine: Machine) -> None:
    group, other = machine.make("slot-1"), machine.make("slot-2")
    ours, theirs = machine.idle(group), machine.idle(other)
    assert group.kill() == 1
    assert ours.wait(PATIENCE_S) == -9
    assert other.members() == [theirs.pid]
    assert theirs.poll() is None


def test_groups_that_its_processes_have_made_belong_to_it(machine: Machine) -> None:
    group = machine.make()
    inside = os.path.join(os.path.dirname(group.entrances[0]), "theirs")
    os.mkdir(inside)
    process = machine.idle(group)
    Path(inside, "cgroup.procs").write_text(str(process.pid))
    assert group.members() == [process.pid]
    assert group.kill() == 1
    assert process.wait(PATIENCE_S) == -9
    until(group.remove, "both are removed")
    assert not os.path.exists(inside)


BOMB = """
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_a_fork_bomb_is_refused_and_killed_whole(machine: Machine) -> None:
    group = machine.make()
    assert group.limit(None, 30)
    bomb = machine.start(group, BOMB)
    until(lambda: group.events().threads_refused > 0, "a fork is refused")
    before = group.events()
    assert group.kill() >= 1
    assert bomb.wait(PATIENCE_S) == -9
    until(lambda: group.members() == [], "all are over")
    assert group.events().threads_refused >= before.threads_refused
    until(group.remove, "the group is removed")


RUNNER = """
while True:
    if os.fork():
        os._exit(0)
"""


def test_one_that_forks_and_ends_for_ever_is_caught(machine: Machine) -> None:
    """Each process lives for a moment only, so that a pid just read is gone when it is signalled."""
    group = machine.make()
    assert group.limit(None, 500)
    first = machine.start(group, RUNNER)
    assert first.wait(PATIENCE_S) == 0
    until(lambda: group.kill() >= 1, "it is seen")
    until(lambda: group.members() == [], "it is over")
    folder = os.path.dirname(group.entrances[0])
    assert Path(folder, "pids.max").read_text() == "500\n", "the next task may fork"
    until(group.remove, "the group is removed")


def test_what_is_refused_while_it_is_ended_is_no_event(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    group = machine.make()
    assert group.limit(None, 1)
    code = "print(flush=True)\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        os.sched_yield()"
    machine.start(group, code)
    until(lambda: group.events().threads_refused > 0, "a fork is refused")
    real = cgroupfs.end
    file = f"{os.path.dirname(group.entrances[0])}/pids.events"
    last: list[int] = []

    def end_late(folders: list[str]) -> int:
        first = cgroupfs.counted(cgroupfs.read(file), "max")
        until(lambda: cgroupfs.counted(cgroupfs.read(file), "max") > first + 10, "more are refused meanwhile")
        last.append(first)
        return real(folders)

    monkeypatch.setattr(cgroupfs, "end", end_late)
    assert group.kill() == 1
    assert 0 < group.events().threads_refused <= last[0]


def test_a_hog_is_killed_by_its_own_limit_and_that_is_told(machine: Machine) -> None:
    machine.needs_memory()
    group = machine.make()
    before = group.events()
    assert group.limit(48 * 2**20, None)
    hog = machine.start(group, "held = []\nwhile True:\n    held.append(bytearray(os.urandom(4096)) * 256)")
    assert hog.wait(PATIENCE_S) == -9
    pressed = group.events() - before
    assert pressed.oom_kills == 1
    assert pressed.memory_hits >= 1
    assert pressed.threads_refused == 0


def test_memory_in_use_is_not_limited_below_itself(machine: Machine) -> None:
    machine.needs_memory()
    group = machine.make()
    holder = machine.start(group, "held = bytearray(b'x') * 2**26\nprint(flush=True)\nsignal.pause()")
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"\n"
    assert not group.limit(2**22, None), "refused: that much is in use"
    assert not group.limit(2**22, None), "it is tried again"
    assert group.limit(2**28, None)
    assert group.limit(None, None)
    assert holder.poll() is None
    assert "18446744073709551615" not in Path(os.path.dirname(group.entrances[1]), "memory.limit_in_bytes").read_text()


def test_a_limit_is_lifted(machine: Machine) -> None:
    group = machine.make()
    folder = os.path.dirname(group.entrances[0])
    assert group.limit(None, 7)
    assert Path(folder, "pids.max").read_text() == "7\n"
    assert group.limit(None, None)
    assert Path(folder, "pids.max").read_text() == "max\n"


def test_what_an_earlier_battd_left_is_cleared(machine: Machine) -> None:
    left = [machine.make(f"slot-{number}") for number in range(3)]
    processes = [machine.idle(group) for group in left[:2]]
    machine.groups.close()
    assert [group.members() for group in left] == [[process.pid] for process in processes] + [[]], "close harms nobody"

    later = Groups.find("auto", machine.name)
    assert later.kind == "v1"
    assert later.clear() == 2
    assert [process.wait(PATIENCE_S) for process in processes] == [-9, -9]
    later.clear()
    assert later.clear() == 0
    again = later.make("slot-0")
    assert again is not None, "the label is free"
    assert "/slot-0/" in again.entrances[0]
    assert again.remove()


def test_what_it_left_elsewhere_is_cleared_too(machine: Machine) -> None:
    """It was started by another login or unit, so that its groups are not below ours."""
    group = machine.make("elsewhere")
    place = hierarchy.own_places("auto")["pids"].child(machine.name).child("elsewhere").child(machine.name)
    os.mkdir(place.folder)
    os.mkdir(f"{place.folder}/slot")
    process = machine.idle(group)
    Path(place.folder, "slot", "cgroup.procs").write_text(str(process.pid))
    later = Groups.find("auto", machine.name)
    assert later.clear() == 1
    assert process.wait(PATIENCE_S) == -9
    later.clear()
    assert not os.path.exists(os.path.dirname(place.folder))


def test_a_group_stays_while_it_is_in_use(machine: Machine) -> None:
    group = machine.make()
    process = machine.idle(group)
    assert not group.remove()
    assert group.members() == [process.pid]
    process.kill()
    process.wait()
    until(group.remove, "nobody holds it")
    assert group.remove(), "it is gone, which is what was wanted"


def test_a_label_in_use_gets_another_name(machine: Machine) -> None:
    first, second = machine.make("slot"), machine.make("slot")
    assert not set(first.entrances) & set(second.entrances)


def test_a_group_that_cannot_be_made_is_none(machine: Machine) -> None:
    assert machine.groups.make("no/such") is None
    assert machine.left() != []
    machine.groups.close()
    assert machine.left() == []
    assert machine.groups.make("slot") is None


def test_it_is_described(machine: Machine) -> None:
    assert machine.groups.describe().startswith("cgroup v1: pids")
    assert f"/{machine.name}" in machine.groups.describe()


def test_a_plain_user_gets_none_with_the_reason() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = (
        "import os, sys\n"
        "from batt_supervisor.pool.group import Groups\n"  # before it may not read the sources any more
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "groups = Groups.find('auto', sys.argv[1])\n"
        "print(groups.kind, groups.make('slot'), groups.clear(), sep='|')\n"
        "groups.close()\n"
        "print(groups.why)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, f"batt-test-{os.getpid()}-nobody"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    first, why = done.stdout.splitlines()
    assert first == "none|None|0"
    assert why


# v2, for real: without controllers, where they are those of v1

REAL = """
import os, subprocess, sys
from batt_supervisor.pool.group import Groups
mount, own = sys.argv[1:]
with open(f"{mount}{own}/cgroup.procs", "w") as file:
    file.write("0")
for life in range(2):  # the second finds itself in its place
    groups = Groups.find(mount, "batt-test")
    assert groups.kind == "v2", groups.why
    assert groups.describe().endswith(f" at {own}/jobs"), groups.describe()
    with open("/proc/self/cgroup") as file:
        assert f"0::{own}/supervisor\\n" in file.read()
    assert groups.clear() == life, "what the first has left"
    group = groups.make("slot")
    code = "import signal, sys; open(sys.argv[1], 'w').write('0'); print(flush=True); signal.pause()"
    command = [sys.executable, "-ISc", code, *group.entrances]
    held = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.stdout.readline() for process in held] == [b"\\n"] * 3
    assert sorted(group.members()) == sorted(process.pid for process in held)
    assert not group.remove()
    if life == 0:
        for process in held[1:]:
            process.kill()
            process.wait()
        continue  # one is left to the second
    assert group.kill() == 3
    assert [process.wait() for process in held] == [-9] * 3
    while not group.remove():
        pass
groups.close()
assert not os.path.exists(f"{mount}{own}/jobs")
"""


def test_a_real_v2_group_is_divided_and_ends_what_is_in_it() -> None:
    place = hierarchy.own_places("auto").get("")
    if place is None or not os.access(place.mount, os.W_OK):
        pytest.skip("there is no cgroup v2 here in which this test may make a group")
    own = f"/batt-test-{os.getpid()}-v2"
    folder = f"{place.mount}{own}"
    os.mkdir(folder)
    try:
        done = subprocess.run(
            [sys.executable, "-c", REAL, place.mount, own],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    finally:
        cgroupfs.end([folder])
        until(lambda: cgroupfs.discard(folder), "the group is removed")


# v2, in a folder


@dataclass
class Unit:
    """A folder that looks like a v2 hierarchy, with a unit's group in it that is ours; and what is written there."""

    mount: Path
    own: Path
    proc: Path
    written: list[tuple[str, str]] = field(default_factory=list)

    def find(self) -> Groups:
        return Groups.find(str(self.mount), "batt-test")

    def is_in(self, path: str) -> None:
        """Say that this process is in another group."""
        (self.proc / "cgroup").write_text(f"0::{path}\n")


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unit:
    mount, proc_folder = tmp_path / "cgroup", tmp_path / "proc"
    own = mount / "system.slice" / "batt.service"
    own.mkdir(parents=True)
    proc_folder.mkdir()
    (mount / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    unit = Unit(mount, own, proc_folder)
    unit.is_in("/system.slice/batt.service")
    monkeypatch.setattr(hierarchy, "SELF", str(proc_folder))
    write, rmdir = cgroupfs.write, os.rmdir

    def record(path: str, text: str) -> None:
        write(path, text)
        unit.written.append((os.path.relpath(path, own), text))

    def forget_files(path: str) -> None:
        """A group's files go with it, other than those of a folder."""
        for entry in Path(path).iterdir():
            if entry.is_file():
                entry.unlink()
        rmdir(path)

    monkeypatch.setattr(cgroupfs, "write", record)
    monkeypatch.setattr(os, "rmdir", forget_files)
    return unit


OWN = str(os.getpid())
DIVIDED = [
    ("supervisor/cgroup.procs", OWN),
    ("cgroup.subtree_control", "+memory +pids +cpu"),
    ("jobs/cgroup.subtree_control", "+memory +pids +cpu"),
]


def test_battd_moves_before_it_hands_controllers_on(unit: Unit) -> None:
    groups = unit.find()
    assert (groups.kind, groups.why) == ("v2", "")
    assert unit.written == DIVIDED
    assert groups.describe() == "cgroup v2: memory, pids and cpu at /system.slice/batt.service/jobs"
    group = groups.make("slot-1")
    assert group is not None
    assert group.entrances == [f"{unit.own}/jobs/slot-1/cgroup.procs"]
    assert group.remove()
    groups.close()
    assert not (unit.own / "jobs").exists()
    assert (unit.own / "supervisor").exists()


def test_only_controllers_that_are_there_are_handed_on(unit: Unit) -> None:
    (unit.own / "cgroup.controllers").write_text("pids io\n")
    groups = unit.find()
    assert groups.kind == "v2"
    assert unit.written[1:] == [("cgroup.subtree_control", "+pids"), ("jobs/cgroup.subtree_control", "+pids")]
    group = groups.make("slot-1")
    assert group is not None
    assert group.limit(None, 5)
    assert not group.limit(2**28, 5), "memory is not limited"
    assert group.limit(None, 5)
    assert unit.written[3:] == [("jobs/slot-1/pids.max", "5")]


def test_a_group_with_others_in_it_is_not_divided(unit: Unit) -> None:
    (unit.own / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    groups = unit.find()
    assert groups.kind == "none"
    assert groups.why == "the cgroup v2 of battd, /system.slice/batt.service, holds other processes (1)"
    assert unit.written == []
    assert not (unit.own / "supervisor").exists()
    assert not (unit.own / "jobs").exists()


def test_what_was_done_is_undone_when_controllers_are_refused(unit: Unit) -> None:
    (unit.own / "cgroup.subtree_control").mkdir()  # not writable, for root neither
    groups = unit.find()
    assert groups.kind == "none"
    assert groups.why.startswith("cgroup v2 cgroup.subtree_control in /system.slice/batt.service is not writable: ")
    assert unit.written == [("supervisor/cgroup.procs", OWN), ("cgroup.procs", OWN)]
    assert not (unit.own / "supervisor").exists()
    assert not (unit.own / "jobs").exists()


def test_controllers_are_taken_back_before_battd_moves_back(unit: Unit) -> None:
    (unit.own / "jobs" / "cgroup.subtree_control").mkdir(parents=True)
    groups = unit.find()
    assert groups.kind == "none"
    assert "jobs/cgroup.subtree_control" in groups.why
    assert unit.written == [*DIVIDED[:2], ("cgroup.subtree_control", "-memory -pids -cpu"), ("cgroup.procs", OWN)]
    assert (unit.own / "jobs").exists(), "it was there before"


def test_a_group_that_takes_no_folder_is_given_up(unit: Unit) -> None:
    (unit.own / "supervisor").write_text("")
    groups = unit.find()
    assert groups.kind == "none"
    assert groups.why.startswith("cgroup v2 supervisor in ")
    assert unit.written == []


def test_a_restart_finds_itself_in_its_place(unit: Unit) -> None:
    assert unit.find().kind == "v2"
    for folder in ("", "jobs/"):
        (unit.own / f"{folder}cgroup.subtree_control").write_text("cpu memory pids\n")
    (unit.own / "cgroup.procs").write_text("")
    (unit.own / "jobs" / "slot-1").mkdir()
    (unit.own / "jobs" / "slot-1" / "cgroup.procs").write_text("")
    unit.is_in("/system.slice/batt.service/supervisor")
    unit.written.clear()
    groups = unit.find()
    assert groups.describe() == "cgroup v2: memory, pids and cpu at /system.slice/batt.service/jobs"
    assert unit.written == [], "all has been done"
    assert groups.clear() == 0
    assert not (unit.own / "jobs" / "slot-1").exists()
    assert not (unit.own / "supervisor" / "supervisor").exists()


def test_limits_are_written_when_they_differ(unit: Unit) -> None:
    group = unit.find().make("slot")
    assert group is not None
    unit.written.clear()
    assert group.limit(None, None)
    assert unit.written == [], "a new group is unlimited"
    assert group.limit(2**28, 64)
    assert group.limit(2**28, 64)
    assert unit.written == [
        ("jobs/slot/memory.max", str(2**28)),
        ("jobs/slot/memory.swap.max", "0"),
        ("jobs/slot/memory.oom.group", "1"),
        ("jobs/slot/pids.max", "64"),
    ]
    unit.written.clear()
    assert group.limit(None, 64)
    assert group.limit(None, None)
    assert unit.written == [
        ("jobs/slot/memory.max", "max"),
        ("jobs/slot/memory.swap.max", "max"),
        ("jobs/slot/memory.oom.group", "0"),
        ("jobs/slot/pids.max", "max"),
    ]


def test_a_refused_limit_is_told_and_tried_again(unit: Unit) -> None:
    group = unit.find().make("slot")
    assert group is not None
    file = unit.own / "jobs" / "slot" / "memory.max"
    file.mkdir()
    assert not group.limit(2**28, 64)
    assert (unit.own / "jobs" / "slot" / "pids.max").read_text() == "64"
    file.rmdir()
    unit.written.clear()
    assert group.limit(2**28, 64)
    assert unit.written[0] == ("jobs/slot/memory.max", str(2**28))


def test_events_are_read(unit: Unit) -> None:
    group = unit.find().make("slot")
    assert group is not None
    assert group.events() == QUIET, "there are no files yet"
    folder = unit.own / "jobs" / "slot"
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 1\n")
    (folder / "pids.events").write_text("max 5\n")
    first = group.events()
    assert first == Events(oom_kills=2, memory_hits=3, threads_refused=5)
    (folder / "pids.events").write_text("max 6\n")
    assert group.events() - first == Events(threads_refused=1)
    assert QUIET - first == QUIET, "a group that is gone has undone nothing"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


def test_the_kernel_ends_a_group_where_it_can(unit: Unit, sleeper: subprocess.Popen[bytes]) -> None:
    group = unit.find().make("slot")
    assert group is not None
    folder = unit.own / "jobs" / "slot"
    (folder / "cgroup.procs").write_text(f"{sleeper.pid}\n")
    (folder / "cgroup.kill").write_text("")
    assert group.kill() == 1
    assert (folder / "cgroup.kill").read_text() == "1"
    assert sleeper.poll() is None, "nothing else was signalled: a folder ends nobody"


def test_processes_are_killed_where_the_kernel_ends_no_group(unit: Unit, sleeper: subprocess.Popen[bytes]) -> None:
    group = unit.find().make("slot")
    assert group is not None
    (unit.own / "jobs" / "slot" / "cgroup.procs").write_text(f"{sleeper.pid}\n")
    assert group.kill() == 1
    assert sleeper.wait(PATIENCE_S) == -9


@pytest.mark.parametrize("kill", [True, False])
def test_battd_never_ends_itself(unit: Unit, sleeper: subprocess.Popen[bytes], kill: bool) -> None:
    """A task of an earlier battd has started it; and 0 is a process of another namespace, not all of our own."""
    group = unit.find().make("slot")
    assert group is not None
    folder = unit.own / "jobs" / "slot"
    (folder / "cgroup.procs").write_text(f"0\n{os.getpid()}\n{sleeper.pid}\n")
    if kill:
        (folder / "cgroup.kill").write_text("")
    assert group.members() == [sleeper.pid]
    assert group.kill() == 1
    assert sleeper.wait(PATIENCE_S) == -9


def test_processes_are_killed_without_a_descriptor_to_be_had(
    unit: Unit, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = unit.find().make("slot")
    assert group is not None
    (unit.own / "jobs" / "slot" / "cgroup.procs").write_text(f"{sleeper.pid}\n")

    def refuse(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert group.kill() == 1
    assert sleeper.wait(PATIENCE_S) == -9


def test_a_list_that_cannot_be_read_is_not_taken_for_an_empty_one(
    unit: Unit, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = unit.find().make("slot")
    assert group is not None
    (unit.own / "jobs" / "slot" / "cgroup.procs").write_text(f"{sleeper.pid}\n")
    read, refusals = cgroupfs.read, iter(range(5))

    def refuse_some(path: str) -> str:
        if path.endswith("cgroup.procs") and next(refusals, None) is not None:
            raise OSError(24, "Too many open files")
        return read(path)

    monkeypatch.setattr(cgroupfs, "read", refuse_some)
    assert group.kill() == 1
    assert sleeper.wait(PATIENCE_S) == -9


# Which hierarchy


def test_off_is_none() -> None:
    groups = Groups.find("off", "batt-test")
    assert (groups.kind, groups.why) == ("none", "control groups are switched off")
    assert groups.make("slot") is None
    assert groups.clear() == 0
    groups.close()
    assert groups.describe() == "no control groups: control groups are switched off"


def test_an_empty_folder_is_none(tmp_path: Path) -> None:
    groups = Groups.find(str(tmp_path), "batt-test")
    assert (groups.kind, groups.why) == ("none", "no cgroup hierarchy with pids or of v2 is mounted")


@pytest.mark.parametrize("text", ["nonsense\n", "0::/../elsewhere\n", "0::/gone (deleted)\n", ""])
def test_an_own_group_that_cannot_be_seen_is_none(unit: Unit, text: str) -> None:
    (unit.proc / "cgroup").write_text(text)
    groups = unit.find()
    assert groups.kind == "none"
    assert groups.why


HYBRID = "5:pids:/box\n4:memory:/box\n1:name=systemd:/box\n0::/box\n"


@pytest.mark.parametrize(
    ("controllers", "v1", "kind"),
    [
        ("cpu memory pids", ["pids", "memory"], "v2"),
        ("", ["pids", "memory"], "v1"),
        ("pids", ["pids", "memory"], "v1"),
        ("pids", ["memory"], "v2"),
        ("", [], "v2"),
    ],
)
def test_v2_is_preferred_when_it_has_both_controllers(unit: Unit, controllers: str, v1: list[str], kind: str) -> None:
    mount = unit.mount.parent / "hybrid"
    for name in ["unified", *v1]:
        (mount / name / "box").mkdir(parents=True)
    (mount / "unified" / "cgroup.controllers").write_text(controllers)
    (mount / "unified" / "box" / "cgroup.controllers").write_text(controllers)
    (unit.proc / "cgroup").write_text(HYBRID)
    groups = Groups.find(str(mount), "batt-test")
    assert groups.kind == kind


def test_v1_without_memory_ends_and_counts_only(unit: Unit) -> None:
    mount = unit.mount.parent / "v1"
    (mount / "pids" / "box").mkdir(parents=True)
    (mount / "memory" / "box").mkdir(parents=True)
    (mount / "memory" / "box" / "batt-test").write_text("")  # takes no folder of this name, for root neither
    (unit.proc / "cgroup").write_text(HYBRID)
    groups = Groups.find(str(mount), "batt-test")
    assert groups.kind == "v1"
    assert groups.why.startswith("cgroup v1 memory is not writable: ")
    assert groups.describe() == f"cgroup v1: pids at /box/batt-test ({groups.why})"
    group = groups.make("slot")
    assert group is not None
    assert group.entrances == [f"{mount}/pids/box/batt-test/slot/cgroup.procs"]
    assert not group.limit(2**28, 8)
    assert (mount / "pids/box/batt-test/slot/pids.max").read_text() == "8"
    assert group.limit(None, 8)


def test_a_refusal_of_each_hierarchy_is_told(unit: Unit) -> None:
    mount = unit.mount.parent / "refusing"
    (mount / "pids" / "box").mkdir(parents=True)
    (mount / "pids" / "box" / "batt-test").write_text("")
    (mount / "unified" / "box").mkdir(parents=True)
    (mount / "unified" / "cgroup.controllers").write_text("")
    (mount / "unified" / "box" / "cgroup.procs").write_text("1\n")
    (unit.proc / "cgroup").write_text(HYBRID)
    groups = Groups.find(str(mount), "batt-test")
    assert groups.kind == "none"
    first, second = groups.why.split("; ")
    assert first.startswith("cgroup v1 pids is not writable: ")
    assert second == "the cgroup v2 of battd, /box, holds other processes (1)"


def test_mounts_are_found_as_the_kernel_lists_them(unit: Unit) -> None:
    """A container sees a part of a hierarchy, mounted as its root; a blank in a path is escaped."""
    folder = unit.mount.parent / "with blank"
    (folder / "inner").mkdir(parents=True)
    escaped = str(folder).replace(" ", "\\040")
    (unit.proc / "mountinfo").write_text(
        "22 1 0:20 / /proc rw - proc proc rw\n"
        f"30 22 0:30 /docker/1 {escaped} rw,relatime shared:4 - cgroup cgroup rw,pids\n"
        f"31 22 0:31 /docker/2 {escaped} rw,relatime - cgroup cgroup rw,memory\n"
    )
    (unit.proc / "cgroup").write_text("8:pids:/docker/1/inner\n7:memory:/docker/1/inner\n")
    groups = Groups.find("auto", "batt-test")
    assert groups.kind == "v1"
    assert groups.why == "cgroup v1 memory is not mounted"
    assert (folder / "inner" / "batt-test").is_dir()
