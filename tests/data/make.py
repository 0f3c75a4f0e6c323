"""Makes the state directory of one kept database, with the code that PYTHONPATH names. See README.md beside this file.

Run as: python make.py FOLDER
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import batt_supervisor
from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon
from batt_supervisor.wire import StageSpec, TaskSpec

ZOO = Path(batt_supervisor.__file__).parent.parent / "tests"
"""The tasks, too, are those of that time: tracebacks and logs are to be what they were."""


def make(target: Path) -> None:
    """Serve some runs, die in the middle of the last one, and keep what is left."""
    with (
        tempfile.TemporaryDirectory(prefix="batt-kept-") as folder,
        Daemon(Path(folder), python_path=[ZOO], slots=1) as battd,
    ):
        battd.start()
        _ended(battd)
        _in_the_middle(battd)
        battd.kill(signal.SIGKILL)
        _keep(battd.state_dir, target)


def _keep(state_dir: Path, target: Path) -> None:
    with closing(sqlite3.connect(state_dir / "queue.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # one file again, and nothing else changed
        files = db.execute(
            "SELECT 'logs/' || log FROM attempts WHERE log_to > log_from "
            "UNION SELECT 'results/' || file FROM results WHERE file IS NOT NULL"
        ).fetchall()
    for (name,) in [("queue.db",), *files]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(state_dir / name, target / name)


def _ended(battd: Daemon) -> None:
    """Runs that have ended, one in each way there is."""
    battd.wait(battd.submit("zoo.calm:echo", [1, {"value": "two"}, [[3]]], name="echo", key="kept"))
    battd.wait(battd.submit("zoo.calm:big", args=(20_000,), name="big"))
    battd.wait(battd.submit("zoo.prints:both", name="prints"))
    fails = battd.submit("zoo.raises:value_error", args=("kept",), name="fails", max_attempts=2, retry_delay_s=0.05)
    battd.wait(fails)
    # A command: the stacks of a function would be in its log, with every path of the machine that this is made on.
    battd.wait(battd.submit(command=["/bin/sleep", "60"], name="hangs", timeout_s=0.5))
    battd.wait(battd.submit(command=["/bin/sh", "-c", "echo said {item}"], items=["a"], name="command"))
    cancelled = battd.submit("zoo.calm:sleep", [60, 61], name="cancelled")
    battd.wait_for(cancelled, State.RUNNING)
    battd.client.cancel(cancelled)
    battd.wait(cancelled)
    battd.wait(battd.submit("zoo.calm:sleep", [0, 60, 61], name="cut", deadline_s=1.0))


def _in_the_middle(battd: Daemon) -> None:
    """A run of two stages, one task of it running."""
    first = StageSpec(name="first", function="zoo.calm:sleep")
    second = StageSpec(name="second", function="zoo.calm:echo", after=("first",))
    tasks = [TaskSpec(stage=0, args=[seconds]) for seconds in (3.0, 0.01, 0.02)]
    run = battd.submit_stages([first, second], [*tasks, TaskSpec(stage=1, args=["last"])], name="middle")
    battd.wait_for(run, State.RUNNING)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
