"""Real battds, and battctl as a real program."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.testing import Daemon

TESTS = Path(__file__).resolve().parent.parent

NOBODY = 65534

_numbers = itertools.count(1)

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


# A notebook's user: not root, no control group, a home that cannot be written


@dataclass(frozen=True)
class Notebook:
    """Where battds run as a user who may do nothing.

    Attributes:
        folder: The user's only folder; also what it has for temporary files.
        given: What `Daemon` is to be given.
    """

    folder: Path
    given: dict[str, Any]

    def home(self, name: str) -> Path:
        """A folder for one battd."""
        made = self.folder / name
        made.mkdir(mode=0o700)
        return made


@pytest.fixture(scope="session")
def notebook() -> Iterator[Notebook]:
    """For root another user; everybody else is such a user already."""
    folder = Path(tempfile.mkdtemp(prefix="batt-nb-", dir="/tmp"))
    try:
        home = folder / "home"
        home.mkdir(mode=0o555)
        (folder / "tmp").mkdir(mode=0o700)
        env = {"HOME": str(home), "TMPDIR": str(folder / "tmp")}
        given: dict[str, Any] = {"env": env, "python_path": [TESTS]}
        if os.geteuid() == 0:
            for made in (folder, folder / "tmp"):
                os.chown(made, NOBODY, NOBODY)
            given |= {"user": NOBODY, **_reachable(folder, env)}
        yield Notebook(folder, given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reachable(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """An interpreter and the sources, where NOBODY can read them: those in use, or links to them in `folder`."""
    python, path = sys.executable, f"{TESTS}:{TESTS.parent}"
    trouble = _try(python, path)
    if trouble:
        place = folder / "python"
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        library = place / "lib" / name
        _mirror(
            Path(os.__file__).parent, library, "site-packages", "test", "idlelib", "ensurepip", "lib2to3", "tkinter"
        )
        _mirror(Path(sysconfig.get_path("purelib")), library / "site-packages")
        (place / "bin").mkdir()
        _link(os.path.realpath(sys.executable), place / "bin" / name)
        shared = Path(sysconfig.get_config_var("LIBDIR") or "/", sysconfig.get_config_var("INSTSONAME") or "none")
        if shared.is_file() and shared.suffix != ".a":
            _link(shared, place / "lib" / shared.name)
            env["LD_LIBRARY_PATH"] = str(place / "lib")
        for package in (TESTS.parent / "batt_supervisor", TESTS.parent / "worker", TESTS / "zoo"):
            _mirror(package, folder / "src" / package.name)
        python, path = str(place / "bin" / name), str(folder / "src")
        trouble = _try(python, path, env)
    if trouble:
        pytest.skip(f"uid {NOBODY} cannot run battd here: {trouble}")
    return {"python": python, "env": {**env, "PYTHONPATH": path}}


def _try(python: str, path: str, env: dict[str, str] | None = None) -> str:
    """Why NOBODY cannot run battd so; empty when it can."""
    words = [python, "-c", "import batt_supervisor.daemon.main, worker.entry, zoo.calm"]
    try:
        tried = subprocess.run(
            words,
            env={**(env or {}), "PYTHONPATH": path},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
    except OSError as error:
        return str(error)
    return tried.stderr.strip().rpartition("\n")[2] if tried.returncode else ""


def _mirror(source: Path, target: Path, *without: str) -> None:
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(*without) if without else None)
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)


def _link(source: Any, target: Any) -> None:
    """A link costs nothing, and whoever may not reach the one name can still read the other."""
    found = os.path.realpath(source)
    if os.stat(found).st_mode & 0o004:
        with suppress(OSError):  # another file system
            os.link(found, target)
            return
    shutil.copy2(found, target)
    os.chmod(target, os.stat(found).st_mode | 0o044)


# Control groups


@pytest.fixture(scope="module")
def own_groups() -> Iterator[list[Path]]:
    """Control groups for a battd to be started in, of pids and memory, below those of this process.

    None where they are of the second version: there, whoever has processes in a group may not divide it.
    """
    made: list[Path] = []
    reason = _make_groups(made)
    if reason:
        pytest.skip(reason)
    yield made
    for group in made:
        end_group(group)


class Fence:
    """Control groups around whatever is started in them, and their limits.

    Attributes:
        groups: Their folders, for `Daemon(cgroups=...)`.
    """

    def __init__(self, groups: Sequence[Path]) -> None:
        self.groups = tuple(groups)
        self.pids = next(group for group in groups if "/pids/" in f"{group}/")
        self.memory = next(group for group in groups if "/memory/" in f"{group}/")
        (self.memory / "memory.swappiness").write_text("0")

    def limit(self, *, pids: int | None = None, memory: int | None = None) -> None:
        """Set limits, or change them; those that are None stay as they are."""
        if pids is not None:
            (self.pids / "pids.max").write_text(str(pids))
        if memory is not None:
            (self.memory / "memory.limit_in_bytes").write_text(str(memory))

    @property
    def threads(self) -> int:
        """How many threads and processes are inside."""
        return int((self.pids / "pids.current").read_text())

    @property
    def memory_bytes(self) -> int:
        """What those inside use, file cache included."""
        return int((self.memory / "memory.usage_in_bytes").read_text())

    def oom_kills(self) -> int:
        """Processes killed for want of memory, of the groups that are there still."""
        told = [line for file in self.memory.rglob("memory.oom_control") for line in file.read_text().splitlines()]
        return sum(int(line.split()[1]) for line in told if line.startswith("oom_kill "))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start another program inside; it is ended with the fence."""
        script = 'until [ "$1" = -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
        enter = ["/bin/sh", "-c", script, "sh", *map(str, self.groups), "--"]
        return subprocess.Popen([*enter, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


@pytest.fixture
def fence() -> Iterator[Fence]:
    """Control groups of the first version, of the test's own; without limits at first."""
    made: list[Path] = []
    try:
        reason = _make_groups(made)
        if reason or len(made) < 2:
            pytest.skip(reason or "no control groups of pids and memory of the first version are mounted")
        yield Fence(made)
    finally:
        for group in made:
            end_group(group)


def _make_groups(made: list[Path]) -> str:
    """Make them; why it cannot be done."""
    if os.geteuid() != 0:
        return "control groups need root here"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, own = line.split(":", 2)
        for controller in {"pids", "memory"} & set(names.split(",")):
            group = Path(f"/sys/fs/cgroup/{controller}{own}", f"batt-test-{os.getpid()}-{next(_numbers)}")
            try:
                group.mkdir()
            except OSError as error:
                return f"no control group can be made: {error}"
            made.append(group)
    return ""


def end_group(group: Path) -> None:
    """Kill what is in a group and in those below it, and remove them all."""
    for folder, _, _ in os.walk(group, topdown=False):
        for _ in range(1000):
            pids = Path(folder, "cgroup.procs").read_text().split()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with suppress(OSError):
                os.rmdir(folder)
                break
            time.sleep(0.01)
