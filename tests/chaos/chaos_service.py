"""A real supervisord with battd below it, each of whose lives is given its own fault."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import OPEN
from batt_supervisor.errors import BattError
from batt_supervisor.pool import cgroupfs, kill, nursery, proc

ROOT: Final = Path(__file__).resolve().parents[2]

SLOTS: Final = 3

PATIENCE_S: Final = 120.0
"""How long a state is waited for: far longer than it takes on the slowest machine."""

CONFIG: Final = """\
retry_delay = "20ms"
drain_timeout = "1s"
# Far above what a crowded machine makes of 10 s: an end by the watchdog would be one that nobody has caused.
watchdog = "100s"
"""

LAUNCH: Final = """\
#!/bin/sh
# Gives this life of battd the next of the faults, and writes down that it begins.
cd {folder} || exit 1
life=$(wc -l < starts)
sed -n "$((life + 1))p" faults > fault
echo "$$ $(date +%s%3N) $(cat fault)" >> starts
exec {python} -m batt_supervisor.daemon.main "$@"
"""


@dataclass(frozen=True)
class Life:
    """One start of battd."""

    pid: int
    at_ms: int
    fault: str


class Service:
    """supervisord in a folder, as supervisor.conf has it, but for pauses between two starts of battd.

    Args:
        folder: An empty one with a short path, for sockets.
        faults: What BATT_FAULTS says in each life of battd.
    """

    def __init__(self, folder: Path, faults: Sequence[str]) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.socket = folder / "s"
        conf = (ROOT / "supervisor.conf").read_text(encoding="utf-8")
        # A battd that is killed soon after its start is no broken one here.
        assert "\nstartsecs=3\n" in conf
        self._conf = folder / "supervisor.conf"
        self._conf.write_text(conf.replace("\nstartsecs=3\n", "\nstartsecs=0\n"), encoding="utf-8")
        (folder / "battd.toml").write_text(CONFIG, encoding="utf-8")
        (folder / "faults").write_text("".join(f"{fault}\n" for fault in faults), encoding="utf-8")
        self._starts = folder / "starts"
        self._starts.touch()
        self._launcher = folder / "battd.sh"
        words = {"folder": shlex.quote(str(folder)), "python": shlex.quote(sys.executable)}
        self._launcher.write_text(LAUNCH.format(**words), encoding="utf-8")
        self._launcher.chmod(0o700)
        self._process: subprocess.Popen[bytes] | None = None
        self._settled = 0

    def start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BATT")}
        ours = {
            "BATTD": str(self._launcher),
            "BATT_CONFIG": str(self.folder / "battd.toml"),
            "BATT_FAULTS": f"@{self.folder / 'fault'}",
            "BATT_LEDGER": str(self.folder / "ledger"),
            "BATT_SLOTS": str(SLOTS),
            "BATT_SOCKET": str(self.socket),
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / "supervisord.out").open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--silent", "-c", self._conf],
                env=kept | ours,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    # Its processes

    def lives(self) -> list[Life]:
        """Every start of battd until now."""
        found = []
        for line in self._starts.read_text(encoding="utf-8").splitlines():
            pid, at_ms, *fault = line.split(" ", 2)
            found.append(Life(int(pid), int(at_ms), fault[0] if fault else ""))
        return found

    def battd(self) -> int:
        """The pid of the battd that lives now; 0 where there is none."""
        lives = self.lives()
        return lives[-1].pid if lives and _alive(lives[-1].pid) else 0

    def serves(self) -> int:
        """The pid of the battd that answers now; 0 where none does."""
        with suppress(BattError), Client(self.socket, timeout=5.0) as client:
            return client.service().pid
        return 0

    def settled(self) -> int:
        """How many tasks have ended, as far as was ever seen; retries take none away."""
        with suppress(BattError), Client(self.socket, timeout=5.0) as client:
            counts = [info.counts for info in client.runs(limit=1000)]
            ended = sum(count for each in counts for state, count in each.items() if state not in OPEN)
            self._settled = max(self._settled, ended)
        return self._settled

    def nurseries(self) -> list[int]:
        """What workers are forked from."""
        return [pid for pid in proc.children(self.battd()) if b"nursery" in _command(pid)]

    def workers(self) -> list[int]:
        return [pid for nursery_pid in self.nurseries() for pid in proc.children(nursery_pid) if _alive(pid)]

    def token(self) -> str:
        """Names the state directory in the environment of everything that was started for its tasks."""
        found = self.state_dir.stat()
        return f"{found.st_dev:x}-{found.st_ino:x}"

    def left(self) -> list[str]:
        """Processes of tasks and workers that live, in words."""
        pids = [pid for pid in proc.holding(nursery.TOKEN, self.token()) if _alive(pid)]
        return [f"{pid} ({_command(pid).decode(errors='replace')[-100:]})" for pid in pids]

    def groups_left(self) -> list[str]:
        """Control groups of battd that are there."""
        return list(cgroupfs.named("/sys/fs/cgroup", f"batt-{self.token()}"))

    # Its end

    def spare(self) -> None:
        """Lives that begin from now on have no fault."""
        (self.folder / "faults").write_text("", encoding="utf-8")

    def log(self) -> str:
        """What all lives of battd have logged, oldest first."""
        files = sorted(self.folder.glob("battd.log*"), key=lambda path: path.name, reverse=True)
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)

    def stop(self) -> int:
        """Stop it as a service manager would; supervisord's exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def end(self) -> None:
        """Leave nothing, whatever the run came to."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if pid := self.battd():
            kill.end_tree(pid)
        if self.state_dir.exists():
            for pid in proc.holding(nursery.TOKEN, self.token()):
                kill.end_tree(pid)
            for group in self.groups_left():
                cgroupfs.end([group])
                cgroupfs.discard(group)


def wait_for(what: str, seen: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Look until `seen()` is true.

    Raises:
        AssertionError: It was not within `within_s` seconds.
    """
    until_s = time.monotonic() + within_s
    while not seen():
        assert time.monotonic() < until_s, f"not seen within {within_s:g} s: {what}"
        time.sleep(0.01)


def strike(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal; whether there was somebody to get it."""
    if not _alive(pid):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _alive(pid: int) -> bool:
    found = proc.stat(pid)
    return found is not None and found.state not in "ZX"


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""
