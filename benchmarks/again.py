"""How soon battd runs a task again after it was killed, by how much there is in its store."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import backlog
from figures import Findings
from marked import MARK

from batt_supervisor.testing import Daemon, eventually


def rounds(daemons: Mapping[str, Daemon], number: int) -> dict[str, list[float]]:
    """Seconds from each start to the first task; these battds were killed, and are killed again.

    One after another, so that a machine that grows slower meets all alike.
    """
    took: dict[str, list[float]] = {name: [] for name in daemons}
    for _ in range(number):
        for name, daemon in daemons.items():
            took[name].append(_once(daemon))
    return took


def _once(daemon: Daemon) -> float:
    mark = daemon.home / MARK
    mark.unlink(missing_ok=True)
    daemon.slots = 2  # what kept its slot busy is queued again as well
    began_ns = time.time_ns()
    daemon.launch()
    eventually("a task runs again", mark.exists)
    daemon.ready()
    backlog.kill(daemon)
    return (int(mark.read_text()) - began_ns) / 1e9


def finished(daemon: Daemon, home: Path, *, but: int) -> Daemon:
    """A battd that was killed, once more, with all but some of its queued tasks finished and their results kept."""
    home.mkdir()
    copy = backlog.make(home)
    copy.state_dir.mkdir()
    for file in daemon.state_dir.glob(f"{backlog.database(daemon).name}*"):
        shutil.copy(file, copy.state_dir)
    with closing(sqlite3.connect(backlog.database(copy))) as db, db:
        (run,) = db.execute("SELECT id FROM runs WHERE name = ?", (backlog.NAME,)).fetchone()
        db.execute("UPDATE runs SET cwd = ? WHERE id = ?", (str(home), run))
        (first,) = db.execute(
            "SELECT idx FROM tasks WHERE run_id = ? AND state = 'queued' ORDER BY idx LIMIT 1 OFFSET ?", (run, but)
        ).fetchone()
        those = "run_id = ? AND idx >= ? AND state = 'queued'"
        db.execute(
            "INSERT INTO attempts (task_id, number, claimed_at_ms, ended_at_ms, outcome, wall_s, cpu_s) "
            f"SELECT id, 1, moved_at_ms, moved_at_ms, 'ok', 0.001, 0.001 FROM tasks WHERE {those}",
            (run, first),
        )
        db.execute(
            f"INSERT INTO results (task_id, attempt, value) SELECT id, 1, 'null' FROM tasks WHERE {those}", (run, first)
        )
        count = db.execute(
            f"UPDATE tasks SET state = 'succeeded', attempt = 1, outcome = 'ok', settled_seq = id WHERE {those}",
            (run, first),
        ).rowcount
        db.execute("UPDATE counters SET settled_seq = (SELECT max(id) FROM tasks)")
        db.execute("UPDATE tallies SET count = count - ? WHERE run_id = ? AND state = 'queued'", (count, run))
        db.execute("INSERT INTO tallies VALUES (?, 0, 'succeeded', 'ok', ?)", (run, count))
    return copy


def tell(took: Mapping[str, list[float]], peer: str, found: Findings) -> None:
    part = f"From battd's start after SIGKILL to the first task, median of {len(took[peer])}; peer: {peer}"
    few_s = statistics.median(took[peer])
    for name, times in took.items():
        found.add(part, name, statistics.median(times), "s", peer=None if name == peer else few_s)
    part = "How much later that is than with the peer, median of the rounds' differences"
    for name, times in took.items():
        if name != peer:
            later_s = [one - other for one, other in zip(times, took[peer], strict=True)]
            note = "the rounds: " + ", ".join(f"{one:+.2f}" for one in later_s)
            found.add(part, name, statistics.median(later_s), "s", hold="0.3 s", note=note)
