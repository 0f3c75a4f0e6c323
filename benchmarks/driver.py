"""One instance of ours in the exhaustion benchmark, as a program: what a user's shell script does, with battctl.

    driver.py STATE_DIR SLOTS NAME FUNCTION ITEMS [OPTION ...]

Submits a line of ITEMS as a task each, waits, and fetches the results into `NAME.results` beside ITEMS. With SLOTS it
also keeps a battd of its own up, as a process manager would, and stops it at the end. What cannot be forked for want of
processes is tried again after a pause, and so is a submission that found no battd (it has a key). Every such thing is a
line of `NAME.notes`. Standard library only, and one thread.
"""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PAUSE_S = 0.2
LOOK_S = 0.02
UNREACHABLE = 7
ENDED = (0, 1, 3)
"""Exit codes of a `battctl submit --wait` that saw the run end, whatever has become of its tasks."""

NO_ROOM = (errno.EAGAIN, errno.ENOMEM)


def battd(state_dir: str | Path, slots: int | None) -> list[str]:
    words = [sys.executable, "-m", "batt_supervisor.daemon.main", "--state-dir", str(state_dir)]
    return words if slots is None else [*words, "--slots", str(slots)]


def battctl(state_dir: str | Path, *words: str) -> list[str]:
    command, *rest = words
    return [sys.executable, "-m", "batt_supervisor.cli.main", command, "--state-dir", str(state_dir), *rest]


class Notes:
    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, text: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{text}\n")


def start(words: Sequence[str], what: str, notes: Notes, output: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a program as soon as there is room for it."""
    while True:
        try:
            if output is None:
                return subprocess.Popen(words, stdin=subprocess.DEVNULL)
            with output.open("wb") as file:
                return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            notes.add(f"{what} not forked: {error.strerror}")
        time.sleep(PAUSE_S)


class Battd:
    """A battd of this instance's own."""

    def __init__(self, state_dir: Path, slots: int, notes: Notes) -> None:
        self._words, self._notes = battd(state_dir, slots), notes
        self._socket = state_dir / "battd.sock"
        self._process = start(self._words, "battd", notes)
        self._wait_for_socket()

    def keep_up(self) -> None:
        code = self._process.poll()
        if code is not None:
            self._notes.add(f"battd ended with {code}")
            time.sleep(PAUSE_S)
            self._process = start(self._words, "battd", self._notes)

    def _wait_for_socket(self) -> None:
        while not self._socket.exists():
            self.keep_up()
            time.sleep(LOOK_S)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait()
        if code:
            self._notes.add(f"battd ended with {code} after SIGTERM")
        return code


def call(words: Sequence[str], notes: Notes, output: Path | None, meanwhile: Callable[[], object]) -> int:
    """Run battctl until it has found a battd; its exit code."""
    while True:
        process = start(words, "battctl", notes, output)
        while (code := process.poll()) is None:
            meanwhile()
            time.sleep(LOOK_S)
        if code != UNREACHABLE:
            return code
        notes.add("battctl found no battd")
        meanwhile()
        time.sleep(PAUSE_S)


def main(state_dir: str, slots: str, name: str, function: str, items: str, *options: str) -> int:
    folder = Path(items).parent
    notes = Notes(folder / f"{name}.notes")
    own = Battd(Path(state_dir), int(slots), notes) if slots else None
    meanwhile = own.keep_up if own else lambda: None
    words = ("--items", items, "--name", name, "--key", name, "--wait", *options)
    code = call(battctl(state_dir, "submit", f"chores:{function}", *words), notes, None, meanwhile)
    if code in ENDED:
        wanted = battctl(state_dir, "results", name, "--jsonl")
        code = call(wanted, notes, folder / f"{name}.results", meanwhile)
    else:
        notes.add(f"battctl submit ended with {code}")
    stopped = own.stop() if own else 0
    return code or stopped


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
