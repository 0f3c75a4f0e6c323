"""A program: says what its reading predicts, then really takes threads or memory until it is refused or killed.

`python taker.py THING SETTINGS`, the latter in JSON: `enter` (files of control groups to write itself to), `uid`,
`limits` (of `resource`, by name), `namespace` (a cgroup namespace of its own), `cache` (a file to fill with 32 MiB
first), `binding` (begin of the name of the limit that is meant).
One line of JSON, then one byte for everything that it got, all on stdout; then it waits until stdin is closed.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import sys
import threading
from contextlib import suppress

from batt_supervisor.core.headroom import Resource
from batt_supervisor.headroom.machine import MachineHeadroom

MiB = 2**20
CLONE_NEWCGROUP = 0x02000000


def main(thing: str, settings: dict) -> None:
    for file in settings.get("enter", ()):
        with open(file, "w") as group:
            group.write(str(os.getpid()))
    if settings.get("namespace"):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWCGROUP):
            raise OSError(ctypes.get_errno(), "unshare")
    if "cache" in settings:
        with open(settings["cache"], "wb") as file:
            for _ in range(32):
                file.write(b"x" * MiB)
            os.fsync(file.fileno())
    for name, limit in settings.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if "uid" in settings:
        os.setresgid(*[settings["uid"]] * 3)
        os.setresuid(*[settings["uid"]] * 3)
    # Stacks must not be what is short, nor the arena that each thread may get.
    threading.stack_size(128 * 1024)
    headroom = MachineHeadroom()
    reading = headroom.read(0.0)
    limits = [one for one in reading.limits if one.name.startswith(settings.get("binding", ""))]
    binding = reading.binding(Resource(thing)) if "binding" not in settings else min(limits, key=lambda one: one.free)
    with open("/proc/self/statm") as file:
        address_space = int(file.read().split()[0]) * mmap.PAGESIZE
    told = {
        "name": binding.name,
        "free": binding.free,
        "address_space": address_space,
        "names": [one.name for one in reading.limits],
        "missing": list(reading.missing),
    }
    os.write(1, json.dumps(told).encode() + b"\n")
    take_threads() if thing == "threads" else take_memory()
    sys.stdin.read()
    os._exit(0)


def take_threads() -> None:
    hold = threading.Event()
    with suppress(RuntimeError):
        while True:
            threading.Thread(target=hold.wait, daemon=True).start()
            os.write(1, b".")
    os.write(1, b"!")


def take_memory() -> None:
    """A MiB at a time, each page of it touched."""
    kept = []
    page = b"x" * mmap.PAGESIZE
    with suppress(OSError, MemoryError):
        while True:
            piece = mmap.mmap(-1, MiB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for at in range(0, MiB, mmap.PAGESIZE):
                piece[at : at + mmap.PAGESIZE] = page
            kept.append(piece)
            os.write(1, b".")
    os.write(1, b"!")


main(sys.argv[1], json.loads(sys.argv[2]))
