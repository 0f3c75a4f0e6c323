"""An attempt's outcome, from what was seen of its end."""

from typing import Any

import pytest

from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import NOTHING, Claim, Ending, Head, Limits, Outcome, Room, TaskError, Tries, Work
from batt_supervisor.core.world import Stop
from batt_supervisor.daemon.attempt import Attempt
from batt_supervisor.daemon.endings import ending_of
from batt_supervisor.pool.group import Events
from batt_supervisor.pool.protocol import Exit
from worker import report


def seen(**given: Any) -> Exit:
    return Exit(**{"slot_id": 1, "serial": 5, "report": None} | given)


def ended(
    exit: Exit,
    stop: Stop | None,
    *,
    called: bool = True,
    wall_s: float = 5.0,
    tries: Tries | None = None,
    sample: Sample | None = None,
    **limits: Any,
) -> Ending:
    """What `ending_of` makes of it, for an attempt with these limits and this history."""
    work = Work(Room("/"), Limits(**{"timeout_s": 5.0} | limits), function="some:work")
    attempt = Attempt(Head(7, 1, 0, 0, tries or Tries(), 0), work, 1, NOTHING, False, 0.0, stop=stop)
    if sample is not None:
        attempt.note(sample, 1.0)
    return ending_of(exit, attempt, called=called, wall_s=wall_s, memory_free="77 MiB free by memory of the test")


def order(outcome: Outcome, reason: str = "because") -> Stop:
    return Stop(Claim(7, 1), 1, outcome, reason)


LIMIT = order(Outcome.TIMEOUT, "wall limit of 5 s reached")
BOOT = order(Outcome.LOST, "its worker did not call the function within boot_timeout (60 s)")
ASKED = order(Outcome.CANCELLED, "cancelled")


@pytest.mark.parametrize(
    ("exit", "stop", "called", "outcome", "reason"),
    [
        # It died by itself.
        (
            {"exit_code": -9},
            None,
            True,
            Outcome.CRASHED,
            "its process was killed by SIGKILL, sender unknown; memory then: 77 MiB free by memory of the test",
        ),
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
    found = ended(seen(**exit), stop, called=called, wall_s=5.25)
    assert (found.outcome, found.reason) == (outcome, reason)
    if "report" not in exit:
        assert found.wall_s == 5.25


def test_a_lost_attempt_that_was_called_is_not_told_as_one_that_was_not() -> None:
    found = ended(seen(), None, called=True, wall_s=5.25)
    assert "before the function was called" not in found.reason


def test_a_signal_and_an_exit_code_are_kept_as_data() -> None:
    crash = ended(seen(exit_code=-11), None, called=True, wall_s=1.0)
    assert (crash.signal, crash.exit_code) == ("SIGSEGV", None)
    left = ended(seen(exit_code=3), None, called=True, wall_s=1.0)
    assert (left.signal, left.exit_code) == (None, 3)


def test_what_it_used_is_kept_when_it_was_ended() -> None:
    found = ended(seen(exit_code=-9, cpu_s=1.5, peak_memory_bytes=77), LIMIT, called=True, wall_s=5.0)
    assert (found.cpu_s, found.peak_memory_bytes) == (1.5, 77)


def test_a_report_is_taken_at_its_word() -> None:
    told = {"serial": 5, "wall_s": 0.5, "cpu_s": 0.25, "peak_memory_bytes": 9, **report.of_value([1], 99)}
    found = ended(seen(report=told), None, called=True, wall_s=99.0)
    assert (found.outcome, found.value, found.wall_s, found.cpu_s, found.peak_memory_bytes) == (
        Outcome.OK,
        "[1]",
        0.5,
        0.25,
        9,
    )


def test_a_result_in_a_file_is_kept_by_its_name() -> None:
    found = ended(seen(report={"outcome": "ok", "value": None, "file": "7-1.json"}), None, called=True, wall_s=1.0)
    assert (found.value, found.value_file) == (None, "7-1.json")


def test_every_report_of_a_worker_is_understood() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        told = report.of_error(error)
    found = ended(seen(report=told), None, called=True, wall_s=1.0)
    assert found.outcome is Outcome.EXCEPTION
    assert isinstance(found.error, TaskError)
    assert found.error.type == "KeyError"
    for code in (0, 3, -9):
        ended(seen(report=report.of_exit(code)), None, called=True, wall_s=1.0)
    assert ended(seen(report=report.of_value(object(), 9)), None, called=True, wall_s=1.0).outcome is Outcome.BAD_RESULT


KILL = {"exit_code": -9}


@pytest.mark.parametrize(
    ("exit", "limits", "outcome", "words"),
    [
        # The kernel says that it was for want of memory, and whose.
        (KILL | {"pressed": Events(oom_kills=1)}, {}, Outcome.OUT_OF_MEMORY, "because there was no memory left"),
        (
            KILL | {"pressed": Events(oom_kills=1, memory_hits=3)},
            {"memory_limit_bytes": 64 << 20},
            Outcome.MEMORY_LIMIT,
            "at the limit of 64 MiB of memory",
        ),
        # Its own limit was not what failed it: the machine's was.
        (
            KILL | {"pressed": Events(oom_kills=1)},
            {"memory_limit_bytes": 64 << 20},
            Outcome.OUT_OF_MEMORY,
            "no memory left",
        ),
        # The limit was touched, and nothing was killed for it.
        (
            KILL | {"pressed": Events(memory_hits=3)},
            {"memory_limit_bytes": 64 << 20},
            Outcome.CRASHED,
            "sender unknown",
        ),
        # Another signal has another sender.
        ({"exit_code": -11, "pressed": Events(oom_kills=1)}, {}, Outcome.CRASHED, "SIGSEGV"),
        # A child of the task's was killed, and the task failed of that.
        (
            {"report": {"outcome": "exception", "reason": "BrokenPipeError"}, "pressed": Events(oom_kills=1)},
            {},
            Outcome.OUT_OF_MEMORY,
            "it ended with BrokenPipeError",
        ),
        # It came through all the same.
        ({"report": {"outcome": "ok", "value": "1"}, "pressed": Events(oom_kills=1)}, {}, Outcome.OK, ""),
        (
            {"report": {"outcome": "out_of_threads", "reason": "RuntimeError"}, "pressed": Events(threads_refused=1)},
            {"thread_limit": 8},
            Outcome.THREAD_LIMIT,
            "more threads and processes than the limit of 8",
        ),
        # The machine refused it, not its limit.
        ({"report": {"outcome": "out_of_threads", "reason": "R"}}, {"thread_limit": 8}, Outcome.OUT_OF_THREADS, "R"),
    ],
)
def test_what_the_kernel_did_is_told_apart(
    exit: dict[str, Any], limits: dict[str, Any], outcome: Outcome, words: str
) -> None:
    found = ended(seen(**exit), None, **limits)
    assert found.outcome is outcome
    assert words in found.reason


def test_what_was_lost_with_its_nursery_is_suspected_and_alone_it_has_crashed() -> None:
    together = seen(exit_code=255, together=True)
    first = ended(together, None)
    assert (first.outcome, first.together) == (Outcome.LOST, True)
    alone = ended(together, None, tries=Tries(uncharged=1, suspect=True))
    assert (alone.outcome, alone.together) == (Outcome.CRASHED, False)
    assert "the only one there" in alone.reason


def test_an_attempt_that_had_no_cpu_was_starved_and_not_too_slow() -> None:
    starved = seen(exit_code=-9, cpu_s=0.4, waited_s=4.5)
    assert ended(starved, LIMIT).outcome is Outcome.STARVED
    # A third time, it has run alone.
    assert ended(starved, LIMIT, tries=Tries(starved=2)).outcome is Outcome.TIMEOUT
    # It slept, rather than waited; it waited, and got on all the same.
    assert ended(seen(exit_code=-9, cpu_s=0.4, waited_s=0.1), LIMIT).outcome is Outcome.TIMEOUT
    assert ended(seen(exit_code=-9, cpu_s=3.0, waited_s=4.5), LIMIT).outcome is Outcome.TIMEOUT
    # No other order is turned into it.
    assert ended(starved, ASKED).outcome is Outcome.CANCELLED


def test_peaks_are_the_largest_that_anybody_saw() -> None:
    sample = Sample(cpu_s=1.0, memory_bytes=500, threads=9, output_bytes=0, beats=0)
    found = ended(seen(report={"outcome": "ok", "value": "1", "peak_memory_bytes": 700}), None, sample=sample)
    assert (found.peak_memory_bytes, found.peak_threads) == (700, 9)
    assert ended(seen(report={"outcome": "ok", "value": "1"}), None).peak_threads is None


def test_memory_is_told_where_nobody_knows_who_killed_it() -> None:
    sample = Sample(cpu_s=1.0, memory_bytes=5 << 20, threads=1, output_bytes=0, beats=0)
    assert "memory then: 5 MiB held by it, 77 MiB free" in ended(seen(exit_code=-9), None, sample=sample).reason
