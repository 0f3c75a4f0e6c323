"""A drain gives everybody who waits an answer, and leaves whatever state the disk is in."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from broken_disk import mounted
from outside import rows

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually


@pytest.mark.parametrize("path", ["/v1/runs/{run}?wait_s=30&since=0", "/v1/events?wait_s=30&after={last}"])
def test_whoever_waits_for_something_to_happen_is_answered_when_battd_leaves(
    new_battd: Callable[..., Daemon], path: str
) -> None:
    """And not cut off when the API has waited long enough for that."""
    daemon = new_battd().start()
    run = daemon.submit("zoo.raises:value_error", max_attempts=2, retry_delay_s=3600)
    daemon.wait_for(run, State.SCHEDULED)
    last = daemon.client.events(after=0).next
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(daemon.socket))
        asking.sendall(f"GET {path.format(run=run, last=last)} HTTP/1.1\r\nHost: battd\r\n\r\n".encode())
        daemon.stop()
        answer = b"".join(iter(lambda: asking.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)


def test_a_result_that_waits_for_the_disk_does_not_keep_battd_and_its_task_goes_again(
    new_battd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = new_battd('drain_timeout = "100ms"\n')
    told, go = tmp_path / "told", tmp_path / "go"
    with mounted(daemon.state_dir / "results", "1m") as small:
        daemon.start()
        run = daemon.submit("zoo.calm:big_when_told", args=(str(told), str(go), 300_000), max_attempts=1)
        eventually("it runs", told.exists)
        small.fill()
        go.touch()
        eventually("its result waits", lambda: "writing" in {slot.phase for slot in daemon.client.service().slots})
        daemon.stop()
        ((state, charged, reason),) = rows(daemon, "SELECT state, charged, reason FROM tasks")
        assert (state, charged) == ("queued", 0)
        assert reason.startswith("battd was stopped before its result could be written")
        assert daemon.orphans() == []
        small.free()
        daemon.start()
        assert daemon.wait(run).counts == {State.SUCCEEDED: 1}
        assert [attempt.outcome for attempt in daemon.attempts(run)] == ["lost", "ok"]
        daemon.stop()


def test_after_a_drain_all_that_was_written_is_in_one_file(new_battd: Callable[..., Daemon]) -> None:
    """Every connection is closed, so SQLite folds its write-ahead log in; the events tell of a start and a stop."""
    daemon = new_battd().start()
    daemon.wait(daemon.submit("zoo.calm:echo", [1, 2]))
    daemon.stop()
    assert [path.name for path in daemon.state_dir.glob("queue.db*")] == ["queue.db"]
    told = [json.loads(body) for (body,) in rows(daemon, "SELECT body FROM events ORDER BY first")]
    of_service = [entry[3] for entries in told for entry in entries if entry[:3] == [None, None, None]]
    assert of_service == ["started", "stopped"]
