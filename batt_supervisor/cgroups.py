"""Where control groups are, by /proc/self/cgroup and /proc/self/mountinfo: for making groups and for reading limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Mount", "inside", "mounted", "mounted_in", "own_groups"]

ESCAPED: Final = re.compile(r"\\([0-7]{3})")
"""How a blank and the like are written in mountinfo."""


class Mount(NamedTuple):
    """One mount of a hierarchy.

    Attributes:
        point: Where it is mounted.
        top: The group that is seen there: "/", a container's own, or one above ours ("/..") in a cgroup namespace.
        controllers: What can be limited and counted in it; that of v2 is the empty name.
    """

    point: str
    top: str
    controllers: Sequence[str]


def own_groups(cgroup: str) -> dict[str, str]:
    """Path of our own group by controller, from /proc/self/cgroup; that of v2 has the empty name."""
    found = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def mounted(mountinfo: str) -> Iterator[Mount]:
    """Every mount of a hierarchy in /proc/self/mountinfo."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ")
        if kind in ("cgroup", "cgroup2"):
            top, point = (ESCAPED.sub(lambda code: chr(int(code[1], 8)), word) for word in before.split()[3:5])
            yield Mount(point, top, options.split(",") if kind == "cgroup" else [""])


def mounted_in(folder: str, controllers: Sequence[str]) -> Iterator[Mount]:
    """The same for hierarchies that are mounted in one folder, as systemd and others lay them out.

    Args:
        controllers: Those of v1 to look for, each in a folder of its name.
    """
    for point in (folder, f"{folder}/unified"):
        if Path(point, "cgroup.controllers").exists():
            yield Mount(point, "/", [""])
    for controller in controllers:
        if Path(folder, controller).is_dir():
            yield Mount(f"{folder}/{controller}", "/", [controller])


def inside(path: str, top: str) -> str | None:
    """Path of a group from the group that is mounted; None when it is not below that (another namespace's)."""
    if top == "/":
        rest = path
    elif f"{path}/".startswith(f"{top}/"):
        rest = path.removeprefix(top)
    else:
        return None
    return None if ".." in rest.split("/") else rest
