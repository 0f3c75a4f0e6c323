"""Pressure stall information: how much of the last 10 s tasks have waited for memory or for a CPU."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Final, Literal

__all__ = ["OFF", "RESOURCES", "Stall", "stalls", "worst"]

Stall = Literal["memory_full", "memory_some", "cpu_some"]
"""Named as in `core.headroom.Pressure`."""

RESOURCES: Final[Mapping[str, Mapping[bytes, Stall]]] = {
    "memory": {b"full": "memory_full", b"some": "memory_some"},
    "cpu": {b"some": "cpu_some"},  # its `full` is 0 for the host, and only tells of quotas in a group
}
"""What is taken from the file of each resource, by the first word of a line."""

OFF: Final = (errno.ENOENT, errno.ENOTDIR, errno.EOPNOTSUPP, errno.ENOSYS)
"""How a kernel says that it does not measure this: built without, booted with `psi=0`, switched off for a group."""


def stalls(resource: str, text: bytes) -> dict[Stall, float]:
    """Percent of the last 10 s (`avg10`, which the kernel renews every 2 s), from a pressure file's text.

    Raises:
        ValueError: It is not such a file's.
    """
    found = {}
    for line in text.splitlines():
        word, average, *_ = line.split(b" ")
        if word in RESOURCES[resource]:
            found[RESOURCES[resource][word]] = float(average.removeprefix(b"avg10="))
    return found


def worst(several: Iterable[Mapping[Stall, float]]) -> dict[Stall, float]:
    """The highest of each."""
    found: dict[Stall, float] = {}
    for one in several:
        for name, percent in one.items():
            found[name] = max(percent, found.get(name, 0.0))
    return found
