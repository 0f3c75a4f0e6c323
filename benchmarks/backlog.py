"""The battds of the benchmark of a million tasks: each has one slot, which is busy, so that what is submitted waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon, eventually
from batt_supervisor.wire import RunCreated, RunSpec, StageSpec, TaskSpec

HERE = Path(__file__).parent

NAME = "backlog"
"""The run that the queued tasks are in."""

DAY_S = 86_400


def make(home: Path) -> Daemon:
    """One that was not started yet, on the disk that the clone is on; its tasks' directory is `home`."""
    home.mkdir(exist_ok=True)
    own = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return Daemon(home, config='log_level = "warning"\n', python_path=[HERE, *own], slots=1)


@contextmanager
def busy(home: Path) -> Iterator[Daemon]:
    """One that runs and whose only slot is busy for a day; whatever happens, nothing of it is left."""
    with make(home) as daemon:
        daemon.start()
        daemon.wait_for(daemon.submit(command=("sleep", str(DAY_S)), timeout_s=DAY_S, name="busy"), State.RUNNING)
        yield daemon


def submit(daemon: Daemon, tasks: int) -> RunCreated:
    stage = StageSpec(name="only", function="marked:mark")
    spec = RunSpec(name=NAME, cwd=str(daemon.home), stages=(stage,))
    return daemon.client.submit(spec, (TaskSpec(args={"n": number}) for number in range(tasks)))


def database(daemon: Daemon) -> Path:
    return daemon.state_dir / "queue.db"


def kill(daemon: Daemon) -> None:
    """SIGKILL, and wait until everything below it is gone as well."""
    os.kill(daemon.pid, 9)
    daemon.ended()
    eventually("nothing of battd is left", lambda: not daemon.orphans())
