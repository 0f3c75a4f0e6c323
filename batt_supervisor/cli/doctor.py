"""battctl doctor: reads what this machine and battd say, and has `checks` judge it."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batt_supervisor import __version__
from batt_supervisor.cli import checks
from batt_supervisor.cli.checks import Check, Level
from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import Caller, ConfigOption, JsonOption, SocketOption, StateDirOption, caller
from batt_supervisor.cli.output import document, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.errors import BattError
from batt_supervisor.units import format_size

if TYPE_CHECKING:
    from batt_supervisor.wire import ServiceInfo


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    ctx: typer.Context,
    *,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check what usually goes wrong.

    The socket, the state directory, and the limits of threads, memory and files.

    The limits are those of this shell; battd's own may differ where a service manager sets them.
    Exits 0 when nothing is bad, else 1.

    \b
    Examples:
      battctl doctor
      battctl doctor --json | jq '.checks[] | select(.level != "ok")'
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    found = list(examine(me))
    bad = any(check.level is Level.BAD for check in found)
    if me.json:
        listed = [{"name": c.name, "level": c.level, "found": c.found, "advice": c.advice or None} for c in found]
        document({"ok": not bad, "checks": listed})
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            say(f"{check.level.value:4}  {check.name.ljust(width)}  {check.found}")
            if check.advice:
                say(f"{'':4}  {'':{width}}  -> {check.advice}")
    return Exit.FAILED if bad else Exit.OK


def examine(me: Caller) -> Iterator[Check]:
    """Every check, in the order in which they matter."""
    yield checks.python(sys.version_info[:3])
    service = yield from _battd(me)
    yield _state_dir(Path(service.state_dir) if service else me.place.state_dir, running=service is not None)
    yield from _machine()
    if service is not None:
        yield from _of_battd(service)


def _machine() -> Iterator[Check]:
    yield checks.address_space(_limit(resource.RLIMIT_AS), os.environ.get("MALLOC_ARENA_MAX"))
    root = os.geteuid() == 0
    yield checks.processes(_limit(resource.RLIMIT_NPROC), 0 if root else _threads_of_user(os.getuid()), root=root)
    yield checks.kernel_threads(
        _kernel_threads(), _number("/proc/sys/kernel/threads-max"), _number("/proc/sys/kernel/pid_max")
    )
    yield checks.open_files(_limit(resource.RLIMIT_NOFILE), _limit(resource.RLIMIT_NOFILE, hard=True))
    import psutil

    memory = psutil.virtual_memory()
    yield checks.memory(memory.available, memory.total)
    yield checks.kill_method(
        children_file=Path(f"/proc/self/task/{os.getpid()}/children").exists(), cgroup=_writable_cgroup()
    )


def _battd(me: Caller) -> Generator[Check, None, ServiceInfo | None]:
    """Whether battd answers, and with which version; what it says of itself."""
    with me.client() as client:
        try:
            raw = client.service_raw()
        except BattError as error:
            yield Check("battd", Level.BAD, str(error), "without it, nothing runs")
            return None
        yield Check("battd", Level.OK, f"pid {raw.get('pid')} answers on {me.place.socket}")
        yield checks.versions(__version__, str(raw.get("version")))
        try:
            return client.service()
        except BattError as error:
            yield Check("battd's answer", Level.BAD, str(error), "use the battctl that came with this battd")
            return None


def _of_battd(service: ServiceInfo) -> Iterator[Check]:
    room = service.headroom
    yield Check(
        "headroom",
        Level.OK,
        f"memory {format_size(room.memory_free_bytes)} free by {room.memory_limit} "
        f"(reserve {format_size(room.memory_reserve_bytes)}), threads {room.threads_free} free by {room.threads_limit} "
        f"(reserve {room.threads_reserve})",
    )
    if service.kill_by:
        yield Check("battd ends trees", Level.OK, service.kill_by)
    for held, reason in service.holds.items():
        yield Check("hold", Level.WARN, f"{held}: {reason}", "battd starts it as soon as there is room")
    if service.draining:
        yield Check("draining", Level.WARN, "battd is ending and starts nothing", "start it again when it has ended")


def _state_dir(path: Path, *, running: bool) -> Check:
    place = path
    while not _exists(place) and place != place.parent:
        place = place.parent
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return checks.state_dir(
        str(path), exists=place == path, writable=writable, mine=not running, file_system=_file_system(place)
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _file_system(path: Path) -> str | None:
    """The type of the file system that a path is on: the longest mount point above it."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    real, best, found = path.resolve(), -1, None
    for line in lines:
        fields, dash, rest = line.partition(" - ")
        words = fields.split(" ")
        if not dash or len(words) < 5:
            continue
        point = words[4].encode().decode("unicode_escape")
        # The last one of equal length lies on top of the others.
        if len(point) >= best and real.is_relative_to(point):
            best, found = len(point), rest.split(" ")[0]
    return found


def _limit(what: int, *, hard: bool = False) -> int | None:
    value = resource.getrlimit(what)[1 if hard else 0]
    return None if value == resource.RLIM_INFINITY else value


def _threads_of_user(uid: int) -> int:
    import psutil

    total = 0
    for process in psutil.process_iter():
        try:
            if process.uids().real == uid:
                total += process.num_threads()
        except psutil.Error:
            continue
    return total


def _kernel_threads() -> int:
    """Threads on the whole machine: the number behind the slash in /proc/loadavg."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _writable_cgroup() -> str | None:
    """A cgroup of ours in which groups can be made, v2 or v1 `pids`."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "pids" in controllers.split(","):
            root = Path("/sys/fs/cgroup") if controllers == "" else Path("/sys/fs/cgroup/pids")
            folder = root / path.lstrip("/")
            if folder.is_dir() and os.access(folder, os.W_OK) and (folder / "cgroup.procs").exists():
                return str(folder)
    return None
