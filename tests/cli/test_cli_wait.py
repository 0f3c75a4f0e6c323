"""Following a run: with a clock and a client of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.pace import Pace
from batt_supervisor.cli.wait import ABSENCE_LONGEST_S, follow, progress_line, summary
from batt_supervisor.errors import NotFound, Unreachable
from batt_supervisor.wire import RunInfo


class Script:
    """A client that gives one answer after the other, and a display that notes what it is shown."""

    step_s = 1.0
    live = True

    def __init__(self, *answers: RunInfo | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, float, int | None]] = []
        self.seen: list[str] = []
        self.now = 100.0

    def run(self, run: str, *, wait_s: float = 0.0, since: int | None = None) -> RunInfo:
        self.asked.append((run, wait_s, since))
        self.now += min(wait_s, 1.0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def show(self, info: RunInfo, pace: Pace, now: float) -> None:
        self.seen.append(str(info.state))

    def away(self, sentence: str, left_s: float) -> None:
        self.seen.append("away")

    def close(self) -> None:
        pass

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def follow(self, timeout_s: float | None = None) -> tuple[RunInfo, Exit]:
        return follow(self, "arc", self, timeout_s, clock=lambda: self.now, sleep=self.sleep)  # type: ignore[arg-type]


@pytest.fixture
def info(run_info: Callable[..., dict[str, Any]]) -> Callable[..., RunInfo]:
    return lambda **over: RunInfo.model_validate(run_info(**over))


@pytest.mark.parametrize(
    ("state", "code"),
    [("succeeded", Exit.OK), ("failed", Exit.FAILED), ("partial", Exit.PARTIAL), ("cancelled", Exit.CANCELLED)],
)
def test_the_exit_code_says_how_the_run_ended(info: Callable[..., RunInfo], state: str, code: Exit) -> None:
    assert Script(info(), info(state=state)).follow()[1] == code


def test_a_run_is_followed_by_its_id(info: Callable[..., RunInfo]) -> None:
    script = Script(info(), info(), info(state="succeeded"))
    script.follow()
    assert script.asked == [("arc", 0.0, None), ("r7", 1.0, 1), ("r7", 1.0, 1)]


def test_the_time_limit_passes(info: Callable[..., RunInfo]) -> None:
    script = Script(info())
    assert script.follow(5.5)[1] == Exit.TIMED_OUT
    assert script.now == pytest.approx(105.5)
    assert Script(info()).follow(0)[1] == Exit.TIMED_OUT


def test_a_run_that_has_ended_wins_over_the_time_limit(info: Callable[..., RunInfo]) -> None:
    assert Script(info(state="succeeded")).follow(0)[1] == Exit.OK


def test_a_battd_that_restarts_is_waited_for(info: Callable[..., RunInfo]) -> None:
    script = Script(info(), Unreachable("x"), Unreachable("x"), info(), info(state="succeeded"))
    assert script.follow()[1] == Exit.OK
    assert script.seen == ["running", "away", "away", "running", "succeeded"]


def test_a_battd_that_stays_away_is_given_up(info: Callable[..., RunInfo]) -> None:
    script = Script(info(), Unreachable("gone"))
    with pytest.raises(Unreachable, match="gone"):
        script.follow()
    assert script.now == pytest.approx(100 + ABSENCE_LONGEST_S, abs=3)


def test_the_time_limit_passes_while_battd_is_away(info: Callable[..., RunInfo]) -> None:
    assert Script(info(), Unreachable("gone")).follow(5)[1] == Exit.TIMED_OUT


@pytest.mark.parametrize("error", [Unreachable("x"), NotFound("x")])
def test_a_run_that_was_never_seen_is_not_waited_for(error: Exception) -> None:
    with pytest.raises(type(error)):
        Script(error).follow()


def test_a_fast_run_is_not_asked_for_without_end(info: Callable[..., RunInfo]) -> None:
    script = Script(info())
    script.run = lambda run, **_: info()  # type: ignore[method-assign]
    assert script.follow(10)[1] == Exit.TIMED_OUT
    assert len(script.seen) < 100


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace()
    assert pace.rate is None
    pace.see(0, 0)
    assert pace.rate is None
    for second in range(1, 101):
        pace.see(second, second * 2 if second <= 50 else 100 + (second - 50) * 10)
    assert pace.rate == pytest.approx(10)
    assert pace.eta_s(50) == pytest.approx(5)
    pace.see(101, 3)  # a retry: fewer have settled than before
    assert pace.rate is None


def test_a_pace_of_nothing_has_no_end() -> None:
    pace = Pace()
    pace.see(0, 5)
    pace.see(10, 5)
    assert pace.rate is None
    assert pace.eta_s(3) is None


def test_a_line_says_how_far_it_is_and_what_holds_it(info: Callable[..., RunInfo]) -> None:
    pace = Pace()
    pace.see(0, 0)
    pace.see(2, 1)
    line = progress_line(info(hold="waits for memory"), pace)
    assert line == "1/4 (25%), 0.5/s, 6.0s left: 1 succeeded, 3 queued; held: waits for memory"
    assert progress_line(info(tasks=0, counts={}), Pace()) == "0/0: none"


def test_a_summary_names_what_went_wrong(info: Callable[..., RunInfo]) -> None:
    ended = info(
        state="failed", ended_at_ms=7_000, counts={"succeeded": 1, "failed": 3}, outcomes={"ok": 1, "timeout": 3}
    )
    assert summary(ended) == "run r7 'arc' failed: 4 tasks in 5.0s: 1 succeeded, 3 failed (3 timeout)"
