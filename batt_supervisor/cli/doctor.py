"""battctl doctor: reads what this machine and battd say, and has `checks` judge it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from batt_supervisor import __version__
from batt_supervisor.cli import checks
from batt_supervisor.cli.checks import Check, Level
from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import Caller, ConfigOption, JsonOption, SocketOption, StateDirOption, caller
from batt_supervisor.cli.output import cell, document, number_of, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.errors import BattError
from batt_supervisor.units import format_size

if TYPE_CHECKING:
    from batt_supervisor.client import Client
    from batt_supervisor.wire import HeadroomReport, ServiceInfo


PR_GET_CHILD_SUBREAPER: Final = 37


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

    The socket, the state directory, control groups, and the limits of threads, memory and files.

    The limits are battd's own where it runs and can be seen, else those of this shell.
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
            say(f"{check.level.value:4}  {check.name.ljust(width)}  {cell(check.found)}")
            if check.advice:
                say(f"{'':4}  {'':{width}}  -> {cell(check.advice)}")
    return Exit.FAILED if bad else Exit.OK


def examine(me: Caller) -> Iterator[Check]:
    """Every check, in the order in which they matter."""
    yield checks.python(sys.version_info[:3])
    with me.client() as client:
        service = yield from _battd(client, me.place.socket)
        report = _report(client) if service else None
    host = _host(service)
    path = service.state_dir if service else str(me.place.state_dir)
    yield checks.state_dir(host, path, mine=service is None)
    yield from _machine(host)
    if service is not None:
        yield from _of_battd(service)
    if report is not None:
        yield from _of_headroom(report)


def _machine(host: Host) -> Iterator[Check]:
    for check in checks.MACHINE:
        yield from check(host)


def _host(service: ServiceInfo | None) -> Host:
    """This machine, with battd as the process that is looked at, if the pid it gives means it here as well."""
    if service is None:
        return Host()
    seen = Host(process=str(service.pid), slots=service.width)
    return seen if "batt" in seen.proc("cmdline") and seen.proc("limits") else Host(slots=service.width)


def _battd(client: Client, socket: Path) -> Generator[Check, None, ServiceInfo | None]:
    """Whether battd answers, and with which version; what it says of itself."""
    try:
        raw = client.service_raw()
    except BattError as error:
        yield Check("battd", Level.BAD, str(error), "without it, nothing runs")
        return None
    yield Check("battd", Level.OK, f"pid {raw.get('pid')} answers on {socket}")
    yield checks.versions(__version__, str(raw.get("version")))
    try:
        return client.service()
    except BattError as error:
        yield Check("battd's answer", Level.BAD, str(error), "use the battctl that came with this battd")
        return None


def _report(client: Client) -> HeadroomReport | None:
    try:
        return client.headroom()
    except BattError:
        return None  # an older battd; what it says of headroom is in its service


def _of_battd(service: ServiceInfo) -> Iterator[Check]:
    room = service.headroom
    yield Check(
        "headroom",
        Level.OK,
        f"memory {format_size(room.memory_free_bytes)} free by {room.memory_limit} "
        f"(reserve {format_size(room.memory_reserve_bytes)}), threads {room.threads_free} free by {room.threads_limit} "
        f"(reserve {room.threads_reserve})",
    )
    if room.level != "open":
        found = f"{room.level}, {room.width} at once: {room.level_reason}"
        yield Check("level", Level.WARN, found, "it widens by itself; `battctl headroom` shows what is short")
    if service.kill_by:
        yield Check("battd ends trees", Level.OK, service.kill_by)
    for held, reason in service.holds.items():
        yield Check("hold", Level.WARN, f"{held}: {reason}", "battd starts it as soon as there is room")
    if service.draining:
        yield Check("draining", Level.WARN, "battd is ending and starts nothing", "start it again when it has ended")


def _of_headroom(report: HeadroomReport) -> Iterator[Check]:
    for text in report.missing:
        yield Check("not read", Level.WARN, text, "tasks are admitted by the limits that could be read")
    others = sum(not one.own for one in report.holders)
    if report.ledger.startswith("/"):
        with_whom = number_of(others, "other supervisor") if others else "no other supervisor"
        yield Check("ledger", Level.OK, f"{report.ledger}, shared with {with_whom}")
    else:
        advice = "supervisors on this host may promise the same memory; give each a larger reserve_memory"
        yield Check("ledger", Level.WARN, report.ledger or "there is none", advice)


# The machine, and the process on it whose limits count


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo.

    Attributes:
        top: What of the file system is seen there: of a cgroup hierarchy, the group.
    """

    point: str
    top: str
    kind: str
    options: tuple[str, ...]


class Group(NamedTuple):
    """A control group that the process is in, or one around that.

    Attributes:
        controller: `memory`, `pids`, or the empty name for v2, which has them all.
        path: What the kernel calls it.
        folder: Where its files are.
    """

    controller: str
    path: str
    folder: Path


def _subreaper() -> bool:
    """Whether the kernel lets a process take over what its descendants leave behind; changes nothing."""
    import ctypes

    answer = ctypes.c_int()
    try:
        return bool(ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _systemctl(words: list[str]) -> str:
    """What systemctl prints; nothing where it cannot be asked."""
    import subprocess

    try:
        asked = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout


@dataclass(frozen=True)
class Host:
    """A machine, and the process on it whose limits count.

    Attributes:
        root: Its file system; tests have one of their own.
        process: battd's pid where it can be seen from here, else `self`: battctl, with the limits of this shell.
        slots: How many attempts battd runs at once; None: as many as there are CPUs.
        subreaper: Says whether there are subreapers.
        systemctl: Asks systemd.
    """

    root: Path = Path("/")
    process: str = "self"
    slots: int | None = None
    subreaper: Callable[[], bool] = _subreaper
    systemctl: Callable[[list[str]], str] = _systemctl

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def text(self, path: str | Path) -> str:
        """A file's text; empty where it cannot be read."""
        try:
            return (path if isinstance(path, Path) else self.at(path)).read_text(errors="replace")
        except OSError:
            return ""

    def number(self, path: str | Path) -> int | None:
        """A file's number; None where there is none, or it is `max`."""
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def proc(self, name: str) -> str:
        return self.text(f"/proc/{self.process}/{name}")

    def limit(self, name: str, *, hard: bool = False) -> int | None:
        """A limit of the process by its name in /proc/PID/limits; None: unlimited, or not to be read."""
        found = re.search(rf"^{re.escape(name)}\s+(\S+)\s+(\S+)", self.proc("limits"), re.MULTILINE)
        value = found[2 if hard else 1] if found else ""
        return int(value) if value.isdecimal() else None

    @cached_property
    def memory(self) -> Mapping[str, int]:
        """/proc/meminfo, in bytes."""
        lines = re.findall(r"^(\S+):\s+(\d+) kB", self.text("/proc/meminfo"), re.MULTILINE)
        return {name: int(kib) * 1024 for name, kib in lines}

    @cached_property
    def uid(self) -> int:
        """The process's real user, by whom the kernel counts."""
        found = re.search(r"^Uid:\s+(\d+)", self.proc("status"), re.MULTILINE)
        return int(found[1]) if found else os.getuid()

    @cached_property
    def environ(self) -> Mapping[str, str] | None:
        """The process's environment as it was started with; None where it may not be read."""
        try:
            block = self.at(f"/proc/{self.process}/environ").read_bytes()
        except OSError:
            return None
        pairs = (entry.partition(b"=") for entry in block.split(b"\0") if entry)
        return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}

    @cached_property
    def mounts(self) -> list[Mount]:
        found = []
        for line in self.text("/proc/self/mountinfo").splitlines():
            before, dash, after = line.partition(" - ")
            words, what = before.split(" "), after.split(" ")
            if dash and len(words) > 4 and what[0]:
                top, point = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), word) for word in words[3:5])
                found.append(Mount(point, top, what[0], tuple(what[-1].split(","))))
        return found

    def file_system(self, path: Path) -> str | None:
        """The type of the file system that a path of ours (below `root`) is on: the longest mount point above it."""
        real = Path("/") / path.resolve().relative_to(self.root.resolve())
        best, kind = -1, None
        for mount in self.mounts:
            # The last one of equal length lies on top of the others.
            if len(mount.point) >= best and real.is_relative_to(mount.point):
                best, kind = len(mount.point), mount.kind
        return kind

    @cached_property
    def groups(self) -> list[Group]:
        """The process's group in each hierarchy that can be seen, and before it those around it, outermost first."""
        own: dict[str, str] = {}
        for line in self.proc("cgroup").splitlines():
            if line.count(":") >= 2:
                _, controllers, path = line.split(":", 2)
                own.update(dict.fromkeys(controllers.split(","), path))
        found: list[Group] = []
        for mount in self.mounts:
            if mount.kind not in ("cgroup", "cgroup2"):
                continue
            names = [""] if mount.kind == "cgroup2" else [name for name in ("pids", "memory") if name in mount.options]
            for name in names:
                inside = _inside(own.get(name), mount.top)
                if inside is None or any(group.controller == name for group in found):
                    continue
                steps = [step for step in inside.split("/") if step]
                for count in range(len(steps) + 1):
                    below = "/".join(steps[:count])
                    folder = self.at(mount.point) / below
                    if folder.is_dir():
                        path = f"{mount.top.rstrip('/')}/{below}".rstrip("/") or "/"
                        found.append(Group(name, path, folder))
        return found

    def own_group(self, controller: str) -> Group | None:
        """The innermost one of a hierarchy."""
        return next((group for group in reversed(self.groups) if group.controller == controller), None)


def _inside(path: str | None, top: str) -> str | None:
    """Path of a group from the one that is mounted; None when it is not below that (another namespace's)."""
    if path is None or not f"{path}/".startswith(f"{top.rstrip('/')}/"):
        return None
    rest = path[len(top.rstrip("/")) :]
    return None if ".." in rest.split("/") else rest
