"""A real supervisord in a folder, and what the tests of this directory look at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from batt_supervisor.client import Client
from batt_supervisor.errors import Unreachable

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.prefix) / "bin"
PATIENCE_S = 120.0
SLOTS = 2


def eventually(what: str, seen: Callable[[], bool]) -> None:
    """Wait for a state, however slow the machine is."""
    until_s = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < until_s, f"not seen within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.02)


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would lead to another battd."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BATT")} | more


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def naming(path: Path) -> list[list[str]]:
    """The command lines that name a path: processes that still live in it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(path) in word for word in words):
            found.append(words)
    return found


class Supervised:
    """supervisord in a folder, with battd below it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "state" / "battd.sock"
        self._out = open(home / "supervisord.out", "wb")
        self.process = subprocess.Popen(
            [BIN / "supervisord", "--nodaemon", "--silent", "-c", home / "supervisor.conf"],
            env=environment(BATT_SLOTS=str(SLOTS)),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._battd: set[int] = set()

    def said(self) -> str:
        return "\n".join((self.home / name).read_text(errors="replace") for name in ("supervisord.out", "battd.log"))

    def battd(self, *, other_than: int = 0) -> int:
        """The pid of the battd that answers."""
        pid = 0

        def answers() -> bool:
            nonlocal pid
            assert self.process.poll() is None, f"supervisord has ended: {self.said()}"
            with suppress(Unreachable), Client(self.socket) as client:
                pid = client.service().pid
            return pid not in (0, other_than)

        eventually("battd answers", answers)
        self._battd.add(pid)
        return pid

    def control(self, *words: str) -> str:
        done = subprocess.run(
            [BIN / "supervisorctl", "-c", self.home / "supervisor.conf", *words],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Stop it as a service manager would; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.end()

    def end(self) -> None:
        """Leave nothing, whatever the test came to."""
        if self.process.poll() is None:
            self.process.terminate()  # a battd that is killed leaves its control groups to the next one
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self._battd:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if any(str(self.home) in word for word in process.cmdline()):
                    process.kill()
        self._out.close()
