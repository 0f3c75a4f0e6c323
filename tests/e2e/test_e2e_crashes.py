"""The crash table: every way a task goes wrong and its outcome, beside fifty healthy tasks that see nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import RunState, State
from batt_supervisor.core.model import Outcome
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import TaskResult

TESTS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One way to misbehave, and what must come of it; `reason` is a part of the sentence."""

    function: str
    outcome: Outcome
    reason: str = ""
    args: tuple[Any, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    attempts: int = 1
    error: str | None = None

    def __str__(self) -> str:
        return f"{self.function.replace(':', '.')}{list(self.args) if self.args else ''}"


def hangs(function: str) -> Row:
    return Row(f"hangs:{function}", Outcome.TIMEOUT, "wall limit of 1 s reached", limits={"timeout_s": 1.0})


def raised(function: str, error: str, reason: str = "", **given: Any) -> Row:
    return Row(function, Outcome.EXCEPTION, reason or error.rpartition(".")[2], error=error, **given)


TABLE = [
    # The five that the wall was built for.
    hangs("spin"),
    hangs("ignore_every_signal"),
    Row("dies:exit_with", Outcome.CRASHED, "exit code 3", args=(3,)),
    Row("dies:kill_itself", Outcome.CRASHED, "killed by SIGKILL"),
    raised("raises:cannot_be_rebuilt", "zoo.raises.NeedsTwo", "one and two"),
    # Hangs of other kinds.
    hangs("sleep_for_ever"),
    hangs("loop_in_c"),
    hangs("deadlock"),
    hangs("stop_itself"),
    hangs("swallow_everything"),
    # Deaths.
    Row("dies:exit_with", Outcome.CRASHED, "exit code 0", args=(0,)),
    Row("dies:exit_with", Outcome.CRASHED, "exit code 255", args=(255,)),
    Row("dies:segfault", Outcome.CRASHED, "SIGSEGV"),
    Row("dies:abort", Outcome.CRASHED, "SIGABRT"),
    Row("dies:overflow_the_stack", Outcome.CRASHED, "SIGSEGV"),
    Row("dies:kill_itself", Outcome.CRASHED, "SIGUSR1", args=(10,)),
    Row("dies_at_import:work", Outcome.CRASHED, "SIGKILL"),
    # Exceptions.
    raised("dies:sys_exit", "SystemExit", "SystemExit: 3"),
    raised("raises:value_error", "ValueError", "ValueError: wrong"),
    raised("raises:evil_text", "zoo.raises.EvilText", "cannot be shown"),
    raised("raises:unpicklable", "zoo.raises.Unpicklable"),
    raised("raises:keyboard_interrupt", "KeyboardInterrupt"),
    raised("raises:generator_exit", "GeneratorExit"),
    raised("raises:recursion", "RecursionError"),
    raised("raises:group", "ExceptionGroup", "2 sub-exceptions"),
    raised("raises:chain", "ValueError", "second"),
    raised("raises:own_cause", "ValueError", "its own cause"),
    raised("raises:huge_text", "ValueError"),
    raised("raises:lone_surrogate", "ValueError", "half a character"),
    raised("raises:nul", "ValueError", "before"),
    raised("fails_to_import:work", "ModuleNotFoundError", "no_such_module_anywhere"),
    raised("raises_at_import:work", "SystemExit", "not meant to be imported"),
    raised("calm:add", "TypeError", "missing 1 required positional argument"),
    # No memory, no threads: not the task's fault at once.
    Row("raises:memory_error", Outcome.OUT_OF_MEMORY, "growing need", attempts=4, error="MemoryError"),
    Row("raises:ask_for_too_much", Outcome.OUT_OF_MEMORY, "growing need", attempts=4, error="MemoryError"),
    Row("raises:no_thread", Outcome.OUT_OF_THREADS, "can't start new thread", attempts=4, error="RuntimeError"),
    # Results that cannot be stored.
    Row("returns:closure", Outcome.BAD_RESULT, "function is not JSON"),
    Row("returns:nan", Outcome.BAD_RESULT, "not JSON"),
    Row("returns:some_bytes", Outcome.BAD_RESULT, "bytes is not JSON"),
    Row("returns:a_set", Outcome.BAD_RESULT, "set is not JSON"),
    Row("returns:ring", Outcome.BAD_RESULT, "Circular reference"),
    Row("returns:generator", Outcome.BAD_RESULT, "generator is not JSON"),
    Row("returns:tuple_keys", Outcome.BAD_RESULT, "keys must be"),
    Row("returns:evil_dict", Outcome.BAD_RESULT, "raised SystemExit"),
    Row("returns:huge_int", Outcome.BAD_RESULT, "Exceeds the limit"),
    Row("returns:nested", Outcome.BAD_RESULT, "recursion", args=(5000,)),
    Row("calm:big", Outcome.BAD_RESULT, "max_result_bytes", args=(68_000_000,)),
    # Odd, and still fine.
    Row("returns:big_int", Outcome.OK),
    Row("returns:nul", Outcome.OK),
    Row("returns:nested", Outcome.OK, args=(100,)),
    Row("calm:big", Outcome.OK, args=(1_000_000,)),
    Row("calm:big", Outcome.OK, args=(64_000_000,)),
    Row("pollutes:everything", Outcome.OK),
    Row("pollutes:new_environment", Outcome.OK),
    Row("pollutes:close_descriptors", Outcome.OK),
    Row("pollutes:close_descriptors", Outcome.OK, args=(0,)),
    Row("pollutes:close_input", Outcome.OK),
    Row("leaves:fork_that_returns_too", Outcome.OK),
    Row("leaves:nested_pool", Outcome.OK, args=(10,)),
]


@dataclass
class Aftermath:
    daemon: Daemon
    results: dict[str, TaskResult]
    attempts: dict[str, list[str | None]]
    healthy: list[TaskResult]
    healthy_state: RunState
    before: tuple[int, int]
    logs: int


def threads_and_descriptors(daemon: Daemon) -> tuple[int, int]:
    return daemon.process.num_threads(), daemon.process.num_fds()


def at_rest(daemon: Daemon) -> bool:
    return all(slot.phase == "idle" for slot in daemon.client.service().slots)


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """All of them at once, each in a run of its own, with the healthy ones in between."""
    config = 'retry_delay = "20ms"\nlog_level = "warning"\n'
    with Daemon(tmp_path_factory.mktemp("crashes"), python_path=[TESTS], config=config) as daemon:
        daemon.start()

        def every_slot_has_served() -> bool:
            """Some files of a slot are opened with its first attempt."""
            daemon.wait(daemon.submit("zoo.calm:sleep", [0.01] * 20))
            return all(slot.served for slot in daemon.client.service().slots)

        eventually("every slot has served", every_slot_has_served)
        eventually("slots are idle", lambda: at_rest(daemon))
        before = threads_and_descriptors(daemon)
        healthy = daemon.submit("zoo.calm:sleep", [0.02] * 50, name="healthy")
        limits: dict[str, Any] = {"timeout_s": 30.0}
        runs = {
            str(row): daemon.submit(f"zoo.{row.function}", args=row.args, **{**limits, **row.limits}) for row in TABLE
        }
        for run in runs.values():
            daemon.wait(run, within_s=120)
        info = daemon.wait(healthy, within_s=120)
        yield Aftermath(
            daemon,
            {name: daemon.results(run)[0] for name, run in runs.items()},
            {name: [attempt.outcome for attempt in daemon.attempts(run)] for name, run in runs.items()},
            daemon.results(healthy),
            info.state,
            before,
            sum(path.stat().st_size for path in (daemon.state_dir / "logs").iterdir()),
        )
        daemon.stop()
        assert daemon.orphans() == []


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_each_way_to_misbehave_has_its_own_outcome(aftermath: Aftermath, row: Row) -> None:
    found = aftermath.results[str(row)]
    assert found.outcome == row.outcome, found
    assert found.state is (State.SUCCEEDED if row.outcome is Outcome.OK else State.FAILED)
    assert row.reason in (found.reason or ""), found.reason
    attempts = aftermath.attempts[str(row)]
    assert found.attempt == len(attempts)
    # An overloaded machine may leave one without CPU until its wall limit; it goes again then, and is not charged.
    assert len([outcome for outcome in attempts if outcome != Outcome.STARVED]) == row.attempts
    assert (found.error.type if found.error else None) == row.error


def test_fifty_healthy_tasks_beside_them_all_succeed_at_the_first_attempt(aftermath: Aftermath) -> None:
    assert aftermath.healthy_state is RunState.SUCCEEDED
    assert [(task.outcome, task.attempt) for task in aftermath.healthy] == [("ok", 1)] * 50


def test_nothing_is_left_of_any_of_them(aftermath: Aftermath) -> None:
    eventually("no orphan is left", lambda: aftermath.daemon.orphans() == [])


def test_battd_has_as_many_threads_and_descriptors_as_before_them(aftermath: Aftermath) -> None:
    def back() -> bool:
        threads, descriptors = threads_and_descriptors(aftermath.daemon)
        return at_rest(aftermath.daemon) and threads <= aftermath.before[0] and descriptors <= aftermath.before[1]

    eventually(f"threads and descriptors are back at {aftermath.before}", back)


def test_workers_logs_hold_no_garbage(aftermath: Aftermath) -> None:
    """faulthandler's tracebacks of what died, and little else; not the megabytes of what was returned or raised."""
    assert aftermath.logs < 200_000


def test_battds_own_log_tells_of_no_defect(aftermath: Aftermath) -> None:
    assert "Traceback" not in aftermath.daemon.log


def test_messages_are_cut(aftermath: Aftermath) -> None:
    error = aftermath.results["raises.huge_text"].error
    assert error is not None
    assert len(error.message) <= 2000
    assert len(error.traceback) < 10_000


def test_a_message_that_was_cut_says_how_long_it_was(aftermath: Aftermath) -> None:
    error = aftermath.results["raises.huge_text"].error
    assert error is not None
    assert error.message.endswith("(10000000 chars)")


def test_an_exceptions_traceback_names_the_line_and_what_it_came_from(aftermath: Aftermath) -> None:
    error = aftermath.results["raises.chain"].error
    assert error is not None
    assert "raises.py" in error.traceback
    assert "KeyError: 'first'" in error.traceback
    assert "direct cause" in error.traceback


def test_a_hung_task_tells_how_much_cpu_it_used(aftermath: Aftermath) -> None:
    busy, idle = aftermath.results["hangs.spin"], aftermath.results["hangs.sleep_for_ever"]
    assert idle.cpu_s is not None
    assert busy.cpu_s is not None
    assert idle.cpu_s < 0.2 < busy.cpu_s + 0.2
    assert busy.wall_s is not None
    assert busy.wall_s >= 1.0


@pytest.mark.parametrize("size", [1_000_000, 64_000_000])
def test_a_large_result_comes_back_whole(aftermath: Aftermath, size: int) -> None:
    assert aftermath.results[f"calm.big[{size}]"].value == "x" * size


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(("returns:nested", 300), id="nested 300 deep"),
        pytest.param(("returns:lone_surrogate",), id="half a surrogate pair"),
    ],
)
def test_one_odd_value_leaves_the_runs_other_results_readable(battd: Daemon, function: tuple[Any, ...]) -> None:
    run = battd.submit(f"zoo.{function[0]}", args=function[1:])
    battd.wait(run)
    assert battd.results(run)[0].state in (State.SUCCEEDED, State.FAILED)
