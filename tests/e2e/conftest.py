"""Real battds, and battctl as a real program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.testing import Daemon

TESTS = Path(__file__).resolve().parent.parent

Battctl = Callable[..., Any]


@pytest.fixture(scope="module")
def battd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that the tests of a module share; after all of them it drains as it should, and nothing of it is left."""
    home = tmp_path_factory.mktemp("battd")
    with Daemon(home, python_path=[TESTS], config='retry_delay = "20ms"\n') as daemon:
        yield daemon.start()
        daemon.stop()
        assert daemon.orphans() == []


@pytest.fixture
def new_battd(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes battds of the test's own; the test starts them."""
    made: list[Daemon] = []

    def make(config: str = "", **given: Any) -> Daemon:
        home = tmp_path / f"battd-{len(made)}"
        home.mkdir()
        made.append(Daemon(home, config=config, python_path=[TESTS], **given))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


@pytest.fixture
def battctl() -> Battctl:
    """Runs battctl against a battd."""

    def run(daemon: Daemon, *words: str, **given: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "batt_supervisor.cli.main", *words],
            env=daemon.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            **given,
        )

    return run
