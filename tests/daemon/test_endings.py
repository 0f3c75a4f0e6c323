"""An attempt's outcome, from what was seen of its end."""

from typing import Any

import pytest

from batt_supervisor.core.model import Claim, Outcome, TaskError
from batt_supervisor.core.world import Stop
from batt_supervisor.daemon.endings import ending_of
from batt_supervisor.pool.protocol import Exit
from worker import report


def seen(**given: Any) -> Exit:
    return Exit(**{"slot_id": 1, "serial": 5, "report": None} | given)


def order(outcome: Outcome, reason: str = "because") -> Stop:
    return Stop(Claim(7, 1), 1, outcome, reason)


LIMIT = order(Outcome.TIMEOUT, "wall limit of 5 s reached")
BOOT = order(Outcome.LOST, "its worker did not call the function within boot_timeout (60 s)")
ASKED = order(Outcome.CANCELLED, "cancelled")


@pytest.mark.parametrize(
    ("exit", "stop", "called", "outcome", "reason"),
    [
        # It died by itself.
        ({"exit_code": -9}, None, True, Outcome.CRASHED, "its process was killed by SIGKILL, sender unknown"),
        ({"exit_code": -11}, None, True, Outcome.CRASHED, "its process was killed by SIGSEGV"),
        ({"exit_code": -64}, None, True, Outcome.CRASHED, "its process was killed by SIGRTMAX"),
        ({"exit_code": -40}, None, True, Outcome.CRASHED, "its process was killed by signal 40"),
        ({"exit_code": 0}, None, True, Outcome.CRASHED, "its process left with exit code 0"),
        ({"exit_code": 3}, None, True, Outcome.CRASHED, "its process left with exit code 3"),
        (
            {"exit_code": 3, "broken": "its pool broke"},
            None,
            True,
            Outcome.CRASHED,
            "its process left with exit code 3",
        ),
        # Nothing of this is the task's fault.
        ({}, None, True, Outcome.LOST, "its worker went away while it ran"),
        ({}, None, False, Outcome.LOST, "its worker went away before the function was called"),
        ({"broken": "its pool broke"}, None, True, Outcome.LOST, "its pool broke"),
        ({"broken": "its pool broke"}, None, False, Outcome.LOST, "its pool broke"),
        (
            {"exit_code": -9, "begun": False},
            None,
            False,
            Outcome.LOST,
            "its worker went away before the function was called",
        ),
        (
            {"exit_code": 1, "begun": False},
            None,
            False,
            Outcome.LOST,
            "its worker went away before the function was called",
        ),
        # What its module does when it is imported is the task's own.
        (
            {"exit_code": 1},
            None,
            False,
            Outcome.CRASHED,
            "its process left with exit code 1 while its function was looked for",
        ),
        # It was ended by us.
        ({"exit_code": -9}, LIMIT, True, Outcome.TIMEOUT, "wall limit of 5 s reached"),
        (
            {"exit_code": -9, "cpu_s": 4.96},
            LIMIT,
            True,
            Outcome.TIMEOUT,
            "wall limit of 5 s reached; 5.0 s of CPU used",
        ),
        ({"exit_code": -9, "cpu_s": 0.0}, LIMIT, True, Outcome.TIMEOUT, "wall limit of 5 s reached; 0.0 s of CPU used"),
        ({"exit_code": -9}, BOOT, False, Outcome.LOST, BOOT.reason),
        ({"exit_code": -9}, ASKED, True, Outcome.CANCELLED, "cancelled"),
        # It crashed while the order was on its way: the order is what it was ended by.
        ({"exit_code": -11}, LIMIT, True, Outcome.TIMEOUT, "wall limit of 5 s reached"),
        # Its report came before the kill.
        ({"report": {"outcome": "ok", "value": "1"}, "exit_code": -9}, LIMIT, True, Outcome.OK, ""),
        ({"report": {"outcome": "exception", "reason": "x"}}, ASKED, True, Outcome.EXCEPTION, "x"),
    ],
)
def test_an_end_is_what_was_seen_of_it(
    exit: dict[str, Any], stop: Stop | None, called: bool, outcome: Outcome, reason: str
) -> None:
    found = ending_of(seen(**exit), stop, called=called, wall_s=5.25)
    assert (found.outcome, found.reason) == (outcome, reason)
    if "report" not in exit:
        assert found.wall_s == 5.25


def test_a_lost_attempt_that_was_called_is_not_told_as_one_that_was_not() -> None:
    found = ending_of(seen(), None, called=True, wall_s=5.25)
    assert "before the function was called" not in found.reason


def test_a_signal_and_an_exit_code_are_kept_as_data() -> None:
    crash = ending_of(seen(exit_code=-11), None, called=True, wall_s=1.0)
    assert (crash.signal, crash.exit_code) == ("SIGSEGV", None)
    left = ending_of(seen(exit_code=3), None, called=True, wall_s=1.0)
    assert (left.signal, left.exit_code) == (None, 3)


def test_what_it_used_is_kept_when_it_was_ended() -> None:
    found = ending_of(seen(exit_code=-9, cpu_s=1.5, peak_memory_bytes=77), LIMIT, called=True, wall_s=5.0)
    assert (found.cpu_s, found.peak_memory_bytes) == (1.5, 77)


def test_a_report_is_taken_at_its_word() -> None:
    told = {"serial": 5, "wall_s": 0.5, "cpu_s": 0.25, "peak_memory_bytes": 9, **report.of_value([1], 99)}
    found = ending_of(seen(report=told), None, called=True, wall_s=99.0)
    assert (found.outcome, found.value, found.wall_s, found.cpu_s, found.peak_memory_bytes) == (
        Outcome.OK,
        "[1]",
        0.5,
        0.25,
        9,
    )


def test_a_result_in_a_file_is_kept_by_its_name() -> None:
    found = ending_of(seen(report={"outcome": "ok", "value": None, "file": "7-1.json"}), None, called=True, wall_s=1.0)
    assert (found.value, found.value_file) == (None, "7-1.json")


def test_every_report_of_a_worker_is_understood() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        told = report.of_error(error)
    found = ending_of(seen(report=told), None, called=True, wall_s=1.0)
    assert found.outcome is Outcome.EXCEPTION
    assert isinstance(found.error, TaskError)
    assert found.error.type == "KeyError"
    for code in (0, 3, -9):
        ending_of(seen(report=report.of_exit(code)), None, called=True, wall_s=1.0)
    assert (
        ending_of(seen(report=report.of_value(object(), 9)), None, called=True, wall_s=1.0).outcome
        is Outcome.BAD_RESULT
    )
