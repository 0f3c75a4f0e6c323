"""Somebody sets the wall clock by a day, forward or back, while battd runs or none does: nobody's time changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from outside import rows

from batt_supervisor.core.lifecycle import RunState, State
from batt_supervisor.testing import Daemon, eventually

DAY_S = 86_400
FAR_S = 3600.0


class WallClock:
    """The wall clock of a battd, and of no other process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "clock"
        self.faults = f"clock={self._path}"

    def set(self, by_s: int) -> None:
        """So many seconds off the host's."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(by_s))
        os.replace(fresh, self._path)


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def moved(daemon: Daemon, times: int) -> None:
    """Wait until what is on disk goes by the new clock."""
    told = "SELECT count(*) FROM events WHERE body LIKE '%the wall clock was set%'"
    eventually("the clock's setting was written down", lambda: rows(daemon, told) == [(times,)])


def failing(daemon: Daemon, folder: Path, delay_s: float) -> str:
    """A run whose task has failed once, and waits for its second attempt, which succeeds."""
    args = [str(folder / f"tries-{delay_s}"), 1]
    run = daemon.submit("zoo.raises:fail_until", args=tuple(args), max_attempts=2, retry_delay_s=delay_s)
    daemon.wait_for(run, State.SCHEDULED)
    return run


@pytest.mark.parametrize("by_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_nothing_is_due_earlier_or_later_for_a_clock_that_is_set(
    new_battd: Callable[..., Daemon], tmp_path: Path, clock: WallClock, by_s: int
) -> None:
    daemon = new_battd(env={"BATT_FAULTS": clock.faults}).start()
    limited = daemon.submit("zoo.calm:wait_for_file", args=(str(tmp_path / "go"),), deadline_s=FAR_S)
    daemon.wait_for(limited, State.RUNNING)
    late = failing(daemon, tmp_path, FAR_S)
    soon = failing(daemon, tmp_path, 4.0)
    at = "SELECT run_at_ms FROM tasks WHERE run_id = 2 UNION ALL SELECT deadline_at_ms FROM runs WHERE id = 1"
    before = rows(daemon, at)
    clock.set(by_s)
    moved(daemon, 1)
    assert daemon.wait(soon).counts == {State.SUCCEEDED: 1}, "in some seconds, not in a day"
    moved_by = [now_ms - was_ms for (now_ms,), (was_ms,) in zip(rows(daemon, at), before, strict=True)]
    # Two clocks are read one after the other, and at most 0.2 s apart.
    assert [round(by_ms / 1000) for by_ms in moved_by] == [by_s, by_s]
    assert daemon.look(late).state is State.SCHEDULED, "nor at once"
    assert daemon.client.run(limited).state is RunState.RUNNING
    (tmp_path / "go").touch()
    assert daemon.wait(limited).counts == {State.SUCCEEDED: 1}
    clock.set(0)
    moved(daemon, 2)
    assert daemon.look(late).state is State.SCHEDULED
    told = [event for (event,) in rows(daemon, "SELECT body FROM events WHERE body LIKE '%the wall clock%'")]
    assert [("forward by 1d" in text, "back by 1d" in text) for text in told] == [
        (by_s > 0, by_s < 0),
        (by_s < 0, by_s > 0),
    ]
    daemon.client.cancel(late)
    daemon.wait(late)
    daemon.stop()


def test_a_clock_that_was_set_back_while_no_battd_ran_holds_nothing_up(
    new_battd: Callable[..., Daemon], tmp_path: Path, clock: WallClock
) -> None:
    daemon = new_battd(env={"BATT_FAULTS": clock.faults}).start()
    run = failing(daemon, tmp_path, 4.0)
    cut = daemon.submit("zoo.hangs:spin", deadline_s=2.0)
    daemon.kill(signal.SIGKILL)
    clock.set(-DAY_S)
    daemon.start()
    assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
    assert daemon.wait(cut).state is RunState.PARTIAL
    daemon.stop()
