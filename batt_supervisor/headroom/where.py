"""Which control groups this process is in, from the outermost that can be seen to its own, in every hierarchy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batt_supervisor import cgroups
from batt_supervisor.cgroups import Mount
from batt_supervisor.headroom.files import STARVED

__all__ = ["Level", "Levels", "enclosing"]

CONTROLLERS: Final = ("pids", "memory", "cpu")
"""Those of v1 that limit what is read here; v2 has one hierarchy for all, under the empty name."""


@dataclass(frozen=True, slots=True)
class Level:
    """One group that this process is in, in one hierarchy.

    Attributes:
        folder: Where its files are.
        path: What it is called there, as far as that can be told from inside a container.
        controller: Of v1: which of its limits are meant; empty for v2.
        depth: Groups around it that can be seen.
    """

    folder: str
    path: str
    controller: str
    depth: int


@dataclass(frozen=True, slots=True)
class Levels:
    """All of them, the outermost first; and what cannot be seen."""

    found: Sequence[Level] = ()
    missing: Sequence[str] = ()


def enclosing(root: str, proc: Path) -> Levels:
    """Find every group that encloses this process.

    Args:
        root: "auto" for what is mounted, "off" for none, or a folder in which hierarchies are laid out.
        proc: Where /proc is mounted.

    Raises:
        OSError: There is no descriptor to be had, or the kernel does not tell.
        ValueError: What it tells cannot be understood.
    """
    if root == "off":
        return Levels()
    paths = cgroups.own_groups(_text(proc / "self/cgroup"))
    if root == "auto":
        mounts = list(cgroups.mounted(_text(proc / "self/mountinfo")))
    else:
        mounts = list(cgroups.mounted_in(root, CONTROLLERS))
    found: list[Level] = []
    missing: list[str] = []
    for controller in ("", *CONTROLLERS):
        if controller not in paths:
            continue  # the kernel has no such hierarchy
        # A hierarchy may be mounted more than once: the mount that shows the most counts.
        chains = [_chain(mount, paths[controller], controller) for mount in mounts if controller in mount.controllers]
        chain = max(chains, key=len, default=[])
        found += chain
        if not chain and (chains or paths[controller] != "/"):  # otherwise it is the root of what nobody uses
            missing.append(
                f"cgroup {controller or 'v2'}: {paths[controller]}, which this process is in, cannot be seen"
            )
    found.sort(key=lambda level: level.depth)
    return Levels(tuple(found), tuple(missing))


def _text(file: Path) -> str:
    return os.fsdecode(file.read_bytes())


def _chain(mount: Mount, path: str, controller: str) -> list[Level]:
    """The groups from the one that is mounted to ours; none if ours is not below that."""
    own = cgroups.inside(path, mount.top)
    if own is None:
        own = _sought(mount, path)
    if own is None or not _is_folder(Path(mount.point, own.strip("/"))):
        return []
    names = [name for name in own.split("/") if name]
    above = "" if ".." in mount.top.split("/") else mount.top.rstrip("/")
    chain = []
    for depth in range(len(names) + 1):
        below = "".join(f"/{name}" for name in names[:depth])
        chain.append(Level(f"{mount.point.rstrip('/')}{below}", f"{above}{below}" or "/", controller, depth))
    return [level for level in chain if level is chain[-1] or _counts_those_inside(level)]


def _sought(mount: Mount, path: str) -> str | None:
    """Our group where only its depth is known: in a cgroup namespace that sees a mount made outside it (`/../..`).

    The names between the mount and the namespace's own root are hidden, so the group that has this process in it is
    looked for. Only as many levels are opened as there are hidden names.
    """
    hidden = mount.top.split("/")[1:]
    if set(hidden) != {".."} or ".." in path.split("/"):
        return None
    own = str(os.getpid())
    for folder in _folders(Path(mount.point), len(hidden)):
        group = folder / path.strip("/")
        try:
            if own in _text(group / "cgroup.procs").split():
                return f"/{group.relative_to(mount.point)}"
        except OSError as error:
            if error.errno in STARVED:
                raise
    return None


def _folders(top: Path, depth: int) -> Iterator[Path]:
    """The folders that many levels down."""
    if not depth:
        yield top
        return
    try:
        with os.scandir(top) as entries:
            inside = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in STARVED:
            raise
        return  # gone, or not for us to see
    for folder in inside:
        yield from _folders(folder, depth - 1)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # not for us to see


def _counts_those_inside(level: Level) -> bool:
    """Before Linux 5.11 a v1 memory group limited those inside only when told to (`memory.use_hierarchy`)."""
    if level.controller != "memory":
        return True
    try:
        return _text(Path(level.folder, "memory.use_hierarchy")).strip() != "0"
    except OSError:
        return True
