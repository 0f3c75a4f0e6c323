"""The wall, proved: every kind of misbehaviour we know, beside healthy tasks, with control groups and without.

Two battds, one for each world, meet the whole table. After each batch everything is as it was before: the neighbours'
results, battd's own threads and descriptors, the processes below it, the files it keeps.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from outside import alive, at_rest, noted, nurseries, told

from batt_supervisor.core.model import Outcome
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import TaskResult

MiB = 2**20
SLOTS = 3

PIDS = "{pids}"
"""In a task's arguments: the file in which it notes what it starts."""
FOLDER = "{folder}"
"""A folder of its own that it may write to."""


@dataclass
class Scene:
    """What a kind's own check gets to see."""

    world: World
    results: list[TaskResult]
    pids: Path

    @property
    def value(self) -> Any:
        return self.results[0].value


Check = Callable[[Scene], None]


@dataclass(frozen=True)
class Kind:
    """One way to misbehave.

    Attributes:
        batch: Kinds of the same batch are at work together.
        outcomes: How its last attempt may end; usually there is one way.
        reason: A regular expression that is found in the reason.
        history: Outcomes of all its attempts; by default there is one attempt.
        times: How many such tasks there are.
        started: At least so many processes it notes; otherwise nothing was shown.
        room: It runs in a folder of its own.
        lethal: It kills what its neighbours hang on: they may be lost once, and go again.
        only: The one world that it is for.
    """

    batch: str
    name: str
    function: str
    outcomes: tuple[Outcome, ...]
    args: tuple[Any, ...] = ()
    reason: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    history: tuple[Outcome, ...] | None = None
    times: int = 1
    started: int = 0
    check: Check | None = None
    room: bool = False
    lethal: bool = False
    only: str = ""


def kind(
    batch: str, name: str, function: str, outcome: Outcome | tuple[Outcome, ...], *args: Any, **given: Any
) -> Kind:
    limits = {key: given.pop(key) for key in list(given) if key in LIMITS}
    outcomes = outcome if isinstance(outcome, tuple) else (outcome,)
    return Kind(batch, name, f"zoo.{function}", outcomes, args, limits={"timeout_s": 30.0, **limits}, **given)


LIMITS = {
    "timeout_s",
    "soft_timeout_s",
    "max_attempts",
    "cpu_limit_s",
    "stall_timeout_s",
    "memory_limit_bytes",
    "thread_limit",
    "output_limit_bytes",
    "allow_children",
}


def hang(name: str, function: str, *args: Any, **given: Any) -> Kind:
    return kind(
        "hangs", name, function, Outcome.TIMEOUT, *args, reason="wall limit of 0.6 s reached", timeout_s=0.6, **given
    )


def stall(name: str, function: str, *args: Any, **given: Any) -> Kind:
    return kind("stalls", name, function, Outcome.STALLED, *args, stall_timeout_s=0.6, **given)


def death(name: str, function: str, reason: str, *args: Any) -> Kind:
    return kind("deaths", name, function, Outcome.CRASHED, *args, reason=reason)


def raised(name: str, function: str, reason: str, *args: Any) -> Kind:
    return kind("exceptions", name, function, Outcome.EXCEPTION, *args, reason=reason)


def left(name: str, how: str, started: int = 1, **given: Any) -> Kind:
    """A task that leaves processes behind, and ends in one of five ways."""
    outcome = {"return": Outcome.OK, "raise": Outcome.EXCEPTION, "hang": Outcome.TIMEOUT}.get(how, Outcome.CRASHED)
    limits = {"timeout_s": 1.5} if how == "hang" else {}
    return kind(
        f"left behind, {how}",
        f"{name}, {how}",
        f"leaves:{name}",
        outcome,
        PIDS,
        how,
        started=started,
        **limits,
        **given,
    )


def stays_clean(probe: str) -> Check:
    """What comes after it finds the process as it was at the beginning."""

    def check(scene: Scene) -> None:
        first, *others = scene.world.look(probe, 3 * SLOTS)
        expected = scene.world.first_look[probe]
        for found in (first, *others):
            changed = {key: (was, found[key]) for key, was in expected.items() if key != "pid" and found[key] != was}
            assert not changed, f"(before, now): {changed}"

    return check


def in_new_worker(scene: Scene) -> None:
    """The worker that it ran in serves nobody else."""
    pid = scene.value
    eventually(f"worker {pid} is gone", lambda: pid not in scene.world.daemon.workers().values(), within_s=20)


def stays_small(scene: Scene) -> None:
    scene.world.rest()
    sizes = [psutil.Process(pid).memory_info().rss for pid in scene.world.daemon.workers().values()]
    assert max(sizes) < 300 * MiB, [size // MiB for size in sizes]


def stays_for_now(scene: Scene) -> None:
    """The child is its worker's, and goes with it at the latest."""
    (child,) = noted(scene.pids)
    assert alive(*child), "it was ended with the attempt"
    for run in scene.world.daemon.client.runs():
        scene.world.daemon.wait(run.run)  # a neighbour may be in that worker
    with suppress(ProcessLookupError):
        os.kill(scene.value, signal.SIGKILL)


PROCESS, INTERPRETER = "pollutes:look", "pollutes:look_at_the_interpreter"
LIBRARY = "pollutes:look_at_the_library"
ANY_END = (Outcome.OK, Outcome.EXCEPTION, Outcome.CRASHED, Outcome.BAD_RESULT)
BOMB_LIMIT = 64

KINDS = [
    # Hangs.
    hang("a Python loop", "hangs:spin"),
    hang("a sleep", "hangs:sleep_for_ever"),
    hang("SIGTERM ignored", "hangs:ignore_sigterm"),
    hang("every signal ignored", "hangs:ignore_every_signal"),
    hang("every signal blocked", "hangs:block_every_signal"),
    hang("a loop in C", "hangs:loop_in_c"),
    hang("a sleep in C that holds the interpreter", "hangs:sleep_with_the_gil"),
    hang("stopped by itself", "hangs:stop_itself"),
    hang("every exception swallowed", "hangs:swallow_everything"),
    hang("a lock taken twice", "hangs:deadlock"),
    hang("another program in the worker's place", "dies:become", "/bin/sleep", "60"),
    # Stalls.
    stall("a sleep", "hangs:sleep_for_ever"),
    stall("a lock taken twice", "hangs:deadlock"),
    stall("two threads, two locks", "hangs:two_locks"),
    stall("a pool that waits for itself", "hangs:pool_that_waits_for_itself"),
    stall("processes that wait for nothing", "hangs:processes_that_wait_for_nothing", PIDS, started=2),
    stall("a sleep in C that holds the interpreter", "hangs:sleep_with_the_gil"),
    stall("stopped by itself", "hangs:stop_itself"),
    kind("stalls", "idle, with heartbeats", "hangs:lively", Outcome.OK, 1.5, 0.1, stall_timeout_s=0.7),
    kind("stalls", "busy", "heavy:burn", Outcome.OK, 1.2, stall_timeout_s=0.7),
    kind(
        "stalls", "idle above busy children", "heavy:spin_in_children", Outcome.TIMEOUT, PIDS, 1,
        started=1, stall_timeout_s=0.7, timeout_s=2.0,
    ),
    # CPU time.
    kind("cpu", "a Python loop", "hangs:spin", Outcome.CPU_LIMIT, cpu_limit_s=0.5),
    kind("cpu", "every signal ignored", "hangs:ignore_every_signal", Outcome.CPU_LIMIT, cpu_limit_s=0.5),
    kind("cpu", "a loop in C", "hangs:loop_in_c", Outcome.CPU_LIMIT, cpu_limit_s=0.5),
    kind("cpu", "in children", "heavy:spin_in_children", Outcome.CPU_LIMIT, PIDS, 2, started=2, cpu_limit_s=0.5),
    kind(
        "cpu", "in children that do not live long", "heavy:spin_in_short_lived_children", Outcome.CPU_LIMIT, PIDS, 0.05,
        started=2, cpu_limit_s=0.5,
    ),
    kind("cpu", "a sleep uses none", "calm:sleep", Outcome.OK, 0.7, cpu_limit_s=0.5),
    # Memory.
    kind("memory 1", "in steps", "heavy:hog", Outcome.MEMORY_LIMIT, memory_limit_bytes=256 * MiB),
    kind("memory 2", "at once", "heavy:hog_at_once", Outcome.MEMORY_LIMIT, memory_limit_bytes=256 * MiB),
    kind(
        "memory 3", "in children", "heavy:hog_in_children", Outcome.MEMORY_LIMIT, PIDS, 4, 150 * MiB,
        started=4, memory_limit_bytes=300 * MiB,
    ),
    kind("memory 4", "shared", "heavy:hog_shared", Outcome.MEMORY_LIMIT, memory_limit_bytes=256 * MiB),
    kind("memory 5", "less than the limit", "heavy:and_free", Outcome.OK, 100 * MiB, memory_limit_bytes=400 * MiB),
    kind(
        "memory 5", "a leak with every call", "heavy:leak", Outcome.OK, 60 * MiB,
        times=3 * SLOTS * 2, check=stays_small,
    ),
    # Threads and processes.
    kind("threads 1", "threads", "bombs:threads", Outcome.THREAD_LIMIT, thread_limit=BOMB_LIMIT),
    kind("threads 1", "threads, undeterred", "bombs:insistent_threads", Outcome.THREAD_LIMIT, thread_limit=BOMB_LIMIT),
    kind(
        "threads 2", "threads of a child", "bombs:threads_in_a_child", Outcome.THREAD_LIMIT, PIDS,
        started=1, thread_limit=BOMB_LIMIT,
    ),
    kind("threads 3", "threads, no limit of its own", "bombs:threads", Outcome.THREAD_LIMIT),
    kind(
        "threads 4", "processes", "bombs:forks", Outcome.THREAD_LIMIT, PIDS,
        started=BOMB_LIMIT // 4, thread_limit=BOMB_LIMIT,
    ),
    kind(
        "threads 5", "every child forks", "bombs:every_child_forks", Outcome.THREAD_LIMIT, PIDS,
        started=BOMB_LIMIT // 4, thread_limit=BOMB_LIMIT,
    ),
    kind("threads 6", "less than the limit", "leaves:nested_pool", Outcome.OK, 10, thread_limit=BOMB_LIMIT),
    kind("threads 6", "a thread by every call", "pollutes:leak_a_thread", Outcome.OK, False, times=2 * SLOTS),
    kind("threads 6", "a daemon thread by every call", "pollutes:leak_a_thread", Outcome.OK, True, times=2 * SLOTS),
    # Output.
    kind("output", "without an end", "prints:flood", Outcome.OUTPUT_LIMIT),
    kind("output", "by a child", "prints:flood_by_a_child", Outcome.OUTPUT_LIMIT, PIDS, started=1),
    kind("output", "above a limit of its own", "prints:flood", Outcome.OUTPUT_LIMIT, output_limit_bytes=MiB),
    kind("output", "below its limit", "prints:much", Outcome.OK, MiB // 2, output_limit_bytes=MiB),
    kind("output", "control bytes", "prints:control_bytes", Outcome.OK),
    # Deaths.
    death("exit code 0", "dies:exit_with", "exit code 0", 0),
    death("exit code 3", "dies:exit_with", "exit code 3", 3),
    death("exit code 255", "dies:exit_with", "exit code 255", 255),
    death("an exit in a thread", "dies:exit_in_a_thread", "exit code 5", 5),
    death("a program that ends in the worker's place", "dies:become", "exit code 0", "/bin/true"),
    death("SIGSEGV", "dies:segfault", "SIGSEGV"),
    death("a stack that overflows", "dies:overflow_the_stack", "SIGSEGV"),
    death("SIGABRT", "dies:abort", "SIGABRT"),
    death("memory freed twice", "dies:free_twice", "SIGABRT"),
    death("SIGKILL", "dies:kill_itself", "SIGKILL"),
    death("SIGTERM", "dies:kill_itself", "SIGTERM", 15),
    death("SIGUSR1", "dies:kill_itself", "SIGUSR1", 10),
    death("its process group", "dies:kill_its_group", "SIGKILL"),
    death("at import", "dies_at_import:work", "SIGKILL"),
    # Exceptions.
    raised("an exception", "raises:value_error", "ValueError: wrong"),
    raised("sys.exit", "dies:sys_exit", "SystemExit: 3"),
    raised("KeyboardInterrupt", "raises:keyboard_interrupt", "KeyboardInterrupt"),
    raised("GeneratorExit", "raises:generator_exit", "GeneratorExit"),
    raised("recursion without end", "raises:recursion", "RecursionError"),
    raised("one that cannot be made again", "raises:cannot_be_rebuilt", "NeedsTwo: one and two"),
    raised("one that cannot be pickled", "raises:unpicklable", "Unpicklable"),
    raised("one that ends who shows it", "raises:evil_text", "EvilText"),
    raised("sys.exit at import", "raises_at_import:work", "SystemExit"),
    kind(
        "exceptions", "MemoryError", "raises:memory_error", Outcome.OUT_OF_MEMORY,
        history=(Outcome.OUT_OF_MEMORY,) * 4,
    ),
    # Results.
    kind("results", "a closure", "returns:closure", Outcome.BAD_RESULT, reason="function is not JSON"),
    kind("results", "not a number", "returns:nan", Outcome.BAD_RESULT, reason="not JSON"),
    kind("results", "too large", "calm:big", Outcome.BAD_RESULT, 68_000_000, reason="max_result_bytes"),
    kind("results", "large", "calm:big", Outcome.OK, 64_000_000),
    # What it leaves behind.
    *[
        left(name, "return", started, **given)
        for name, started, given in [
            ("a_child", 1, {}),
            ("a_child_that_listens_to_nothing", 1, {}),
            ("a_stopped_child", 1, {}),
            ("a_session", 1, {}),
            ("a_daemon", 2, {}),
            ("a_daemon_that_was_untied", 2, {}),
            ("a_reader_of_its_pipe", 1, {}),
            ("children_of_children", 39, {}),
            ("a_crowd", 200, {}),
            ("zombies", 50, {}),
            ("a_child_of_a_thread", 1, {}),
            ("two_that_raise_each_other", 2, {}),
            ("other_groups", 2, {}),
            ("somebody_elses", 1, {"only": "cgroups"}),
        ]
    ],
    left("a_reader_of_its_pipe", "hang"),
    left("a_daemon", "hang", 2),
    left("a_daemon_that_was_untied", "hang", 2),
    left("a_child_of_a_thread", "hang"),
    *[left("one_of_a_kind_each", how, 15) for how in ("return", "raise", "die", "exit", "hang")],
    left("a_daemon_that_was_untied", "die", 2),
    left("two_that_raise_each_other", "die", 2),
    kind(
        "children that may stay", "a child", "leaves:its_own_pid_and_a_child", Outcome.OK, PIDS,
        started=1, allow_children=True, check=stays_for_now,
    ),
    # What it hangs on itself.
    kind(
        "parent 1", "kills its parent", "dies:signal_parent", Outcome.CRASHED, int(signal.SIGKILL),
        history=(Outcome.LOST, Outcome.CRASHED), lethal=True,
    ),
    kind(
        "parent 2", "kills its parent once", "dies:kill_parent_once", Outcome.OK, f"{FOLDER}/mark",
        history=(Outcome.LOST, Outcome.OK), lethal=True,
    ),
    kind(
        "parent 3", "stops its parent", "dies:signal_parent", (Outcome.OK, Outcome.CRASHED), int(signal.SIGSTOP),
        lethal=True,
    ),
    # What it changes.
    kind("changes 1", "of the process", "pollutes:everything", Outcome.OK, times=2 * SLOTS, check=stays_clean(PROCESS)),
    kind(
        "changes 2", "of the process, further", "pollutes:the_process", Outcome.OK,
        times=2 * SLOTS, check=stays_clean(PROCESS),
    ),
    kind(
        "changes 3", "of the interpreter", "pollutes:the_interpreter", Outcome.OK,
        times=2 * SLOTS, check=stays_clean(INTERPRETER),
    ),
    kind(
        "changes 4", "of the library", "pollutes:the_library", Outcome.OK, times=2 * SLOTS, check=stays_clean(LIBRARY)
    ),
    kind(
        "changes 5", "another environment", "pollutes:new_environment", Outcome.OK,
        times=SLOTS, check=stays_clean(PROCESS),
    ),
    *[
        kind(
            f"limits {name}", f"RLIMIT_{name} lowered{' for good' if hard else ''}", "pollutes:limits",
            (Outcome.OK,), name, hard, times=SLOTS, check=stays_clean(PROCESS),
        )
        for name in ("NOFILE", "AS", "NPROC", "FSIZE", "CPU", "STACK", "DATA")
        for hard in (False, True)
    ],
    kind("folder", "its folder removed", "pollutes:remove_directory", Outcome.OK, room=True),
    kind("modules", "no modules", "pollutes:empty_modules", ANY_END, times=SLOTS),
    kind("library", "the library patched", "pollutes:patch_the_library", ANY_END, times=SLOTS),
    # Descriptors.
    kind("descriptors 1", "closed from 3", "pollutes:close_descriptors", Outcome.OK, times=SLOTS),
    kind("descriptors 1", "closed from 0", "pollutes:close_descriptors", Outcome.OK, 0, times=SLOTS),
    kind("descriptors 1", "output closed", "pollutes:close_output", Outcome.OK, times=SLOTS),
    kind("descriptors 1", "input closed", "pollutes:close_input", Outcome.OK, times=SLOTS),
    kind("descriptors 1", "output replaced", "pollutes:block_its_input", Outcome.OK, times=SLOTS),
    kind("descriptors 2", "left open", "pollutes:leak_descriptors", Outcome.OK, check=in_new_worker),
    kind("descriptors 3", "none left", "pollutes:open_to_the_limit", Outcome.OK, check=in_new_worker),
    *[
        kind(f"descriptors {name}", f"written to from {first}: {name}", "pollutes:scribble", ANY_END, pattern, first)
        for name, pattern in (("zeros", "00"), ("ones", "ff"), ("text", b"{\"op\": 1}\n".hex()))
        for first in (0, 3)
    ],
]  # fmt: skip

BATCHES = list(dict.fromkeys(kind.batch for kind in KINDS))


# Worlds


class World:
    """One battd, and how it was before anything was done to it."""

    def __init__(self, name: str, daemon: Daemon, folder: Path) -> None:
        self.name = name
        self.daemon = daemon
        self.folder = folder
        self.numbers = 0
        self.first_look: dict[str, dict[str, Any]] = {}

    def settle(self) -> None:
        """Warm up, also with a result as large as they may be, and remember how it is at rest."""
        eventually("every slot has served", self.every_slot_has_served)
        run = self.daemon.submit("zoo.calm:big", [64_000_000])
        self.daemon.wait(run)
        self.daemon.results(run)
        for probe in (PROCESS, INTERPRETER, LIBRARY):
            self.first_look[probe] = self.look(probe, 1)[0]
        self.rest()
        self.pid = self.daemon.pid
        self.threads, self.descriptors = self.figures()
        assert len(nurseries(self.daemon)) <= 1
        self.rss = self.daemon.process.memory_info().rss

    def every_slot_has_served(self) -> bool:
        """Some files of a slot are opened with its first attempt."""
        run = self.daemon.submit("zoo.calm:sleep", [0.02] * 10 * SLOTS)
        self.daemon.wait(run)
        self.daemon.results(run)
        return all(slot.served for slot in self.daemon.client.service().slots)

    def renew(self) -> None:
        """Another battd, so that what one row has spoilt does not fail the next one, too."""
        for run in self.daemon.client.runs():
            if run.ended_at_ms is None:
                self.daemon.client.cancel(run.run)
        self.daemon.kill(signal.SIGKILL)
        self.daemon.start()
        self.settle()

    def look(self, probe: str, times: int) -> list[dict[str, Any]]:
        run = self.daemon.submit(f"zoo.{probe}", [[]] * times)
        self.daemon.wait(run)
        found = self.daemon.results(run)
        assert [task.outcome for task in found] == ["ok"] * times, [(task.outcome, task.reason) for task in found]
        return [task.value for task in found]

    def figures(self) -> tuple[int, int]:
        return self.daemon.process.num_threads(), self.daemon.process.num_fds()

    def rest(self) -> None:
        eventually("every slot is idle", lambda: at_rest(self.daemon), within_s=40)

    def strangers(self) -> list[str]:
        """Processes below battd that are neither workers nor what those are forked from."""
        workers = set(self.daemon.workers().values())
        found = []
        for process in self.daemon.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.pid in workers and process.status() != psutil.STATUS_ZOMBIE:
                    continue
                if process.ppid() == self.daemon.pid and "nursery" in " ".join(process.cmdline()):
                    continue
                found.append(told(process.pid))
        return found

    def place(self) -> Path:
        """A new folder that tasks may write to."""
        self.numbers += 1
        made = self.folder / f"row-{self.numbers}"
        made.mkdir()
        made.chmod(0o777)
        return made


@pytest.fixture(scope="module", params=["cgroups", "notebook"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    config = 'retry_delay = "20ms"\nmax_worker_memory = "256MiB"\n'
    if request.param == "cgroups":
        groups = request.getfixturevalue("own_groups")
        tests = Path(__file__).resolve().parent.parent
        home = tmp_path_factory.mktemp("zoo")
        given: dict[str, Any] = {"python_path": [tests], "cgroups": groups}
    else:
        groups = []
        notebook = request.getfixturevalue("notebook")
        home, given = notebook.home("zoo"), notebook.given
    folder = home / "tasks"
    folder.mkdir()
    with Daemon(home, slots=SLOTS, config=config, **given) as daemon:
        if daemon.user is not None:
            os.chown(folder, daemon.user, daemon.user)
        daemon.start()
        world = World(request.param, daemon, folder)
        world.settle()
        yield world
        daemon.stop()
        assert daemon.orphans() == []
        assert [str(below) for group in groups for below in group.iterdir() if below.is_dir()] == []


# The rows


@dataclass
class Running:
    kind: Kind
    run: str
    pids: Path


def begin(world: World, kind: Kind) -> Running:
    place = world.place()
    pids = place / "pids"
    filled = {PIDS: str(pids), FOLDER: str(place)}

    def fill(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        for name, path in filled.items():
            value = value.replace(name, path)
        return value

    cwd = place / "cwd" if kind.room else Path("/")
    if kind.room:
        cwd.mkdir()
        if world.daemon.user is not None:
            os.chown(cwd, world.daemon.user, world.daemon.user)
    args = [fill(value) for value in kind.args]
    run = world.daemon.submit(kind.function, [args] * kind.times, name=kind.name, cwd=cwd, **kind.limits)
    return Running(kind, run, pids)


def neighbours(world: World, path: Path, numbers: range, seconds: float) -> str:
    return world.daemon.submit(
        "zoo.healthy:square", [[str(path), number, seconds] for number in numbers], name=f"healthy {numbers.start}"
    )


def judge(world: World, running: Running) -> list[str]:
    """What is wrong with a kind's own end."""
    kind, daemon = running.kind, world.daemon
    problems = []
    try:
        daemon.wait(running.run, within_s=60)
    except AssertionError as error:
        return [f"{kind.name}: {str(error)[:2000]}"]
    results = daemon.results(running.run)
    for task in results:
        if task.outcome not in kind.outcomes or not re.search(kind.reason, task.reason or ""):
            problems.append(f"{task.outcome}: {task.reason}")
        # A machine that is busy with something else starves a task now and then, which is not the task's doing.
        history = tuple(one.outcome for one in daemon.attempts(task.id) if one.outcome != Outcome.STARVED)
        if Outcome.LOST not in kind.outcomes and history != (kind.history or (task.outcome,)):
            reasons = [attempt.reason for attempt in daemon.attempts(task.id)]
            problems.append(f"its attempts were {history}: {reasons}")
    if len(noted(running.pids)) < kind.started:
        problems.append(f"it started {len(noted(running.pids))} processes, not {kind.started}")
    if kind.check is not None and not problems:
        try:
            kind.check(Scene(world, results, running.pids))
        except AssertionError as error:
            problems.append(f"{error}")
    survivors: list[tuple[int, int]] = []

    def gone() -> bool:
        survivors[:] = [process for process in noted(running.pids) if alive(*process)]
        return not survivors

    try:
        eventually("nothing of it is left", gone, within_s=15)
    except AssertionError:
        problems.append(f"{len(survivors)} processes live: {[told(pid) for pid, _ in survivors[:5]]}")
        for pid, started in survivors:
            if alive(pid, started):
                os.kill(pid, signal.SIGKILL)
    return [f"{kind.name}: {problem}" for problem in problems]


def judge_neighbours(world: World, batch: list[Running], runs: list[str], calls: Path, count: int) -> list[str]:
    """What is wrong with the healthy ones."""
    problems = []
    most = 2 if any(running.kind.lethal for running in batch) else 1
    results = []
    for run in runs:
        try:
            world.daemon.wait(run, within_s=20)
        except AssertionError as error:
            return [f"neighbours: {str(error)[:2000]}"]
        results += world.daemon.results(run)
    for number, task in enumerate(results):
        if task.outcome != "ok" or task.value != number**2 or not 1 <= task.attempt <= most:
            history = [(attempt.outcome, attempt.reason) for attempt in world.daemon.attempts(task.id)]
            problems.append(f"neighbour {number}: {task.outcome}, value {task.value}, attempts {history}")
    called = Counter(int(line) for line in calls.read_text().split())
    often = {number: times for number, times in called.items() if times > most}
    if often or set(called) != set(range(count)):
        problems.append(f"neighbours were called {often or called}")
    return problems


def judge_battd(world: World, before: set[str]) -> list[str]:
    """What is wrong with battd afterwards."""
    problems = []
    daemon = world.daemon
    try:
        world.rest()
    except AssertionError as error:
        problems.append(f"{error}: {[(slot.slot, slot.phase) for slot in daemon.client.service().slots]}")
    if not daemon.alive() or daemon.client.service().pid != world.pid:
        problems.append("battd has ended")
    try:
        eventually("", lambda: world.strangers() == [], within_s=15)
    except AssertionError:
        problems.append(f"below battd there are {world.strangers()[:5]}")

    def back() -> bool:
        # A slot may stay in another room, whose nursery has a socket and a pidfd.
        threads, descriptors = world.figures()
        return threads <= world.threads and descriptors <= world.descriptors + 2 * (len(nurseries(world.daemon)) - 1)

    try:
        eventually("", back, within_s=15)
    except AssertionError:
        problems.append(f"threads and descriptors are {world.figures()}, not {world.threads, world.descriptors}")
    new = {name for name in os.listdir(daemon.state_dir / "results") if name not in before}
    if new:
        problems.append(f"files are left in results/: {sorted(new)[:5]}")
    return problems


@pytest.mark.parametrize("name", BATCHES)
def test_a_bad_task_harms_nobody_and_its_end_is_told_truly(world: World, name: str) -> None:
    kinds = [kind for kind in KINDS if kind.batch == name and kind.only in ("", world.name)]
    if not kinds:
        pytest.skip(f"not for {world.name}")
    calls = world.place() / "calls"
    files = set(os.listdir(world.daemon.state_dir / "results"))
    healthy = [neighbours(world, calls, range(4), 0.02)]
    batch = [begin(world, kind) for kind in kinds]
    healthy.append(neighbours(world, calls, range(4, 8), 0.1))
    problems = [problem for running in batch for problem in judge(world, running)]
    healthy.append(neighbours(world, calls, range(8, 8 + 2 * SLOTS), 0.01))
    problems += judge_neighbours(world, batch, healthy, calls, 8 + 2 * SLOTS)
    kept = {
        f"{task.id[1:]}-{task.attempt}.json"
        for running in batch
        for task in world.daemon.results(running.run)
        if task.outcome == "ok"
    }
    problems += judge_battd(world, files | kept)
    if problems:
        world.renew()
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def crowded() -> Iterator[int]:
    """A core of which eight processes leave hardly anything to others; each is of a session of its own."""
    core = min(os.sched_getaffinity(0))
    code = f"import os, time; os.sched_setaffinity(0, {{{core}}}); until = time.monotonic() + 120\nprint(flush=True)\n"
    words = [sys.executable, "-c", code + "while time.monotonic() < until: pass"]
    made = [subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) for _ in range(8)]
    for process in made:
        assert process.stdout is not None
        process.stdout.readline()  # by then it is there
    yield core
    for process in made:
        process.kill()
        process.communicate()


def test_a_task_that_the_machine_gave_no_cpu_goes_again(world: World, crowded: int) -> None:
    # The second attempt needs next to nothing: whatever else uses that core then, it has no share in what is shown.
    place = world.place()
    (place / "crowded_out.py").write_text(
        "import os\n"
        "def spin_once(core, mark):\n"
        "    if os.path.exists(mark):\n"
        "        return 'second'\n"
        "    open(mark, 'x').close()\n"
        "    os.sched_setaffinity(0, {core})\n"
        "    while True:\n"
        "        pass\n"
    )
    args = (crowded, str(place / "mark"))
    run = world.daemon.submit("crowded_out:spin_once", args=args, timeout_s=2.5, cwd=place, max_attempts=1)
    world.daemon.wait(run)
    told = [(attempt.outcome, attempt.reason) for attempt in world.daemon.attempts(run)]
    assert [outcome for outcome, _ in told] == ["starved", "ok"], told
    assert "waited for a CPU" in (told[0][1] or "")


def test_battd_has_hardly_grown_by_all_of_that(world: World) -> None:
    """What it has once needed for a result of 64 MB it keeps in part: that is some 45 MiB, however many there are."""
    world.rest()
    grown = world.daemon.process.memory_info().rss - world.rss
    assert grown < 80 * MiB, f"{grown / MiB:.0f} MiB"


def test_battds_log_tells_of_no_defect(world: World) -> None:
    assert "Traceback" not in world.daemon.log
