"""Where this process may make control groups: the hierarchies, its own place in each, the parent group to work below.

On cgroup v2 a group that hands controllers on holds no processes itself, so battd moves into a group beside its jobs.
On v1 each controller has a hierarchy of its own, and battd stays where it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final, Literal

from batt_supervisor import cgroups
from batt_supervisor.pool import cgroupfs

__all__ = ["Ground", "Kind", "Place", "find"]

Kind = Literal["v2", "v1", "none"]

SELF: Final = "/proc/self"
"""Tells this process's own groups (`cgroup`) and what is mounted (`mountinfo`)."""

WANTED: Final = ("memory", "pids", "cpu")
"""Controllers that v2 groups get, where there are such: `cpu` gives each slot an equal share."""

V1_WANTED: Final = ("pids", "memory")
"""The first is needed: it is what groups are ended by. Without the second, memory is not limited."""

OURS: Final = "supervisor"
JOBS: Final = "jobs"


@dataclass(frozen=True, slots=True)
class Place:
    """A group, in one hierarchy.

    Attributes:
        folder: Where its files are.
        path: What the kernel calls it, from the hierarchy's root.
        mount: Where the hierarchy is mounted.
        controllers: What can be limited and counted in it.
    """

    folder: str
    path: str
    mount: str
    controllers: tuple[str, ...]

    def child(self, name: str) -> Place:
        return Place(f"{self.folder}/{name}", f"{self.path.rstrip('/')}/{name}", self.mount, self.controllers)


@dataclass(frozen=True, slots=True)
class Ground:
    """The parent group of all that battd makes, once for each hierarchy; or why there is none.

    Attributes:
        why: What could not be had: everything (`none`), or a part of it.
    """

    kind: Kind
    why: str = ""
    places: tuple[Place, ...] = ()


# Our own place in each hierarchy


def own_places(root: str) -> dict[str, Place]:
    """Our own group by controller, where it can be seen; that of v2 has the empty name."""
    paths = cgroups.own_groups(cgroupfs.read(f"{SELF}/cgroup"))
    if root == "auto":
        mounts = cgroups.mounted(cgroupfs.read(f"{SELF}/mountinfo"))
    else:
        mounts = cgroups.mounted_in(root, V1_WANTED)
    found: dict[str, Place] = {}
    for point, top, controllers in mounts:
        usable = [name for name in ("", *V1_WANTED) if name in controllers and name in paths and name not in found]
        for name in usable:
            inside = cgroups.inside(paths[name], top)
            folder = "" if inside is None else f"{point}{inside}".rstrip("/")
            if os.path.isdir(folder):
                enabled = usable if name else cgroupfs.read(f"{folder}/cgroup.controllers").split()
                found[name] = Place(folder, paths[name], point, tuple(enabled))
    return found


# The parent group


def find(root: str, name: str) -> Ground:
    """Make the parent group, or say why there is none. Moves this process, where v2 needs that."""
    if root == "off":
        return Ground("none", "control groups are switched off")
    try:
        own = own_places(root)
    except (OSError, ValueError) as error:
        return Ground("none", f"control groups cannot be looked up: {error}")
    unified = own.get("")
    ways: list[Callable[[], Ground]] = []
    if "pids" in own:
        ways.append(lambda: enter_v1(own, name))
    if unified is not None:
        complete = {"memory", "pids"} <= set(_top(unified).controllers)
        # On a hybrid machine the controllers are in one of the two; a v2 group without any still ends what is in it.
        ways.insert(0 if complete else len(ways), lambda: enter_v2(unified))
    refusals = []
    for way in ways:
        ground = way()
        if ground.kind != "none":
            return ground
        refusals.append(ground.why)
    return Ground("none", "; ".join(refusals) or "no cgroup hierarchy with pids or of v2 is mounted")


def enter_v1(own: Mapping[str, Place], name: str) -> Ground:
    """Make the parent group in `pids`, and in `memory` where that can be had."""
    places: list[Place] = []
    lacks = ""
    for controller in V1_WANTED:
        if controller not in own:
            lacks = f"cgroup v1 {controller} is not mounted"
            continue
        place = own[controller].child(name)
        if any(place.folder == other.folder for other in places):
            continue  # both controllers are mounted together
        refusal = _make(place.folder)
        if not refusal:
            places.append(place)
        elif controller == V1_WANTED[0]:
            return Ground("none", f"cgroup v1 {controller} is not writable: {refusal}")
        else:
            lacks = f"cgroup v1 {controller} is not writable: {refusal}"
        if not refusal and "memory" in place.controllers:
            _count_groups_inside(place.folder)
    return Ground("v1", lacks, tuple(places))


def _make(folder: str) -> str:
    """Make a group, or take the one that an earlier battd has left; why not, otherwise."""
    try:
        with suppress(FileExistsError):
            os.mkdir(folder)
        return "" if os.access(folder, os.W_OK | os.X_OK) else "it is another user's, or read-only"
    except OSError as error:
        return error.strerror or str(error)


def _count_groups_inside(folder: str) -> None:
    """Before Linux 5.11 a group's memory counted for those around it only when asked for; not asking harms nobody."""
    with suppress(OSError):
        if cgroupfs.read(f"{folder}/memory.use_hierarchy").strip() == "0":
            cgroupfs.write(f"{folder}/memory.use_hierarchy", "1")


def _top(own: Place) -> Place:
    """The v2 group that is ours to divide: our own, or the one around it when we are in its `supervisor` already."""
    folder, _, name = own.folder.rpartition("/")
    if name != OURS or not os.path.isdir(f"{folder}/{JOBS}"):
        return own
    with suppress(OSError):
        enabled = tuple(cgroupfs.read(f"{folder}/cgroup.controllers").split())
        return Place(folder, own.path.removesuffix(f"/{OURS}") or "/", own.mount, enabled)
    return own


def enter_v2(own: Place) -> Ground:
    """Divide our own group into `supervisor`, into which this process moves, and `jobs`; or leave all as it was."""
    top = _top(own)
    try:
        with ExitStack() as undo:
            if top is own:
                others = {*cgroupfs.read(f"{top.folder}/cgroup.procs").split()} - {str(os.getpid())}
                if others:
                    return Ground("none", f"the cgroup v2 of battd, {top.path}, holds other processes ({len(others)})")
            jobs = top.child(JOBS)
            for folder in (f"{top.folder}/{OURS}", jobs.folder):
                if not os.path.isdir(folder):
                    os.mkdir(folder)
                    undo.callback(cgroupfs.discard, folder)
            if top is own:
                _move(top, undo)
            controllers = tuple(name for name in WANTED if name in top.controllers)
            _hand_on(top.folder, controllers, undo)
            _hand_on(jobs.folder, controllers, undo)
            undo.pop_all()
    except OSError as error:
        inside = os.path.relpath(error.filename or top.folder, top.folder)
        return Ground("none", f"cgroup v2 {inside} in {top.path} is not writable: {error.strerror}")
    return Ground("v2", "", (Place(jobs.folder, jobs.path, jobs.mount, controllers),))


def _move(top: Place, undo: ExitStack) -> None:
    cgroupfs.write(f"{top.folder}/{OURS}/cgroup.procs", str(os.getpid()))
    undo.callback(_try_to_write, f"{top.folder}/cgroup.procs", str(os.getpid()))


def _hand_on(folder: str, controllers: tuple[str, ...], undo: ExitStack) -> None:
    """Let the groups inside have these controllers."""
    file = f"{folder}/cgroup.subtree_control"
    there = cgroupfs.read(file).split()
    new = [name for name in controllers if name not in there]
    if new:
        cgroupfs.write(file, " ".join(f"+{name}" for name in new))
        # A group that hands controllers on takes no process back.
        undo.callback(_try_to_write, file, " ".join(f"-{name}" for name in new))


def _try_to_write(path: str, text: str) -> None:
    with suppress(OSError):
        cgroupfs.write(path, text)
