"""What a reading says is free can really be had, and no more: by processes that take it until they are refused.

A few limits at random each time; BATT_PREDICTIONS=50 tries 50 of each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.headroom.cgroup import Group
from batt_supervisor.headroom.where import Level, enclosing

HERE = Path(__file__).resolve().parent
MiB = 2**20
PATIENCE_S = 120
TRIES = int(os.environ.get("BATT_PREDICTIONS", "2"))
NOBODY = 54_321
"""A user that nobody is."""


def own(controller: str) -> Level:
    """The v1 group that this process is in, if it may make others in it."""
    places = [one for one in enclosing("auto", Path("/proc")).found if one.controller == controller]
    if not places:
        pytest.skip(f"cgroup v1 {controller} is not mounted here")
    if not os.access(places[-1].folder, os.W_OK):
        pytest.skip(f"this test may not make control groups in {places[-1].folder} (it needs root)")
    return places[-1]


@dataclass
class Pair:
    """A v1 group in another: `outer` and `outer/inner`."""

    controller: str
    outer: Path

    @property
    def inner(self) -> Path:
        return self.outer / "inner"

    def limit(self, outer: int, inner: int) -> None:
        file = "pids.max" if self.controller == "pids" else "memory.limit_in_bytes"
        (self.outer / file).write_text(str(outer))
        (self.inner / file).write_text(str(inner))
        for group in (self.outer, self.inner):
            with suppress(OSError):
                (group / "memory.swappiness").write_text("0")  # what is swapped out can be had again


@pytest.fixture
def pair() -> Iterator[Callable[[str], Pair]]:
    made: list[Path] = []

    def make(controller: str) -> Pair:
        outer = Path(own(controller).folder, f"batt-test-{os.getpid()}-{len(made)}")
        made.append(outer)
        outer.mkdir()
        (outer / "inner").mkdir()
        return Pair(controller, outer)

    yield make
    for outer in made:
        for group in (outer / "inner", outer):
            _remove(group)


def _remove(group: Path) -> None:
    """End what is in it; the kernel lets a group go a moment after its last process."""
    until_s = time.monotonic() + PATIENCE_S
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            assert time.monotonic() < until_s, f"{group} cannot be removed"
            time.sleep(0.01)


@dataclass
class Taken:
    told: Mapping[str, Any]
    got: int

    @property
    def predicted(self) -> int:
        return int(self.told["free"])


@pytest.fixture
def take() -> Iterator[Callable[..., Taken]]:
    with ExitStack() as running:

        def start(thing: str, **settings: object) -> Taken:
            program = running.enter_context(
                subprocess.Popen(
                    [sys.executable, str(HERE / "taker.py"), thing, json.dumps(settings)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={"PYTHONPATH": str(HERE.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
                    cwd="/",
                )
            )
            running.callback(program.kill)
            assert program.stdout is not None
            line = program.stdout.readline()
            assert line, "it ended before it told its reading"
            got = 0
            while True:
                byte = program.stdout.read(1)
                if byte != b".":
                    break
                got += 1
            return Taken(json.loads(line), got)

        yield start


@pytest.mark.parametrize("seed", range(TRIES))
@pytest.mark.parametrize("namespace", [False, True], ids=["", "in a cgroup namespace"])
def test_as_many_threads_as_predicted_fit_into_nested_groups(
    pair: Callable[[str], Pair], take: Callable[..., Taken], seed: int, namespace: bool
) -> None:
    """Now the inner one binds, now the outer one, in which others are too."""
    chance = random.Random(seed)
    groups = pair("pids")
    groups.limit(chance.randrange(40, 70), chance.randrange(20, 60))
    others = subprocess.Popen(["sleep", "1000"])
    try:
        (groups.outer / "cgroup.procs").write_text(str(others.pid))
        taken = take("threads", enter=[f"{groups.inner}/cgroup.procs"], namespace=namespace)
    finally:
        others.kill()
        others.wait()
    assert "/batt-test-" in taken.told["name"]
    print(f"pids: predicted {taken.predicted}, got {taken.got} ({taken.told['name']})")
    assert abs(taken.got - taken.predicted) <= 2


@pytest.mark.parametrize("seed", range(TRIES))
@pytest.mark.parametrize("cache", [False, True], ids=["", "with file cache"])
def test_as_much_memory_as_predicted_fits_into_nested_groups(
    pair: Callable[[str], Pair], take: Callable[..., Taken], tmp_path: Path, seed: int, cache: bool
) -> None:
    """Cache that was not touched lately is given back before anything is killed."""
    chance = random.Random(seed)
    groups = pair("memory")
    groups.limit(chance.randrange(128, 400) * MiB, chance.randrange(96, 400) * MiB)
    settings = {"cache": str(tmp_path / "cache")} if cache else {}
    taken = take("memory", enter=[f"{groups.inner}/cgroup.procs"], **settings)
    assert "/batt-test-" in taken.told["name"]
    print(f"memory: predicted {taken.predicted / MiB:.1f} MiB, got {taken.got} ({taken.told['name']})")
    assert taken.got == pytest.approx(taken.predicted / MiB, rel=0.05)


@pytest.mark.parametrize("seed", range(TRIES))
def test_as_many_threads_as_predicted_may_be_a_users(take: Callable[..., Taken], seed: int) -> None:
    """It counts all processes of the user, wherever they are."""
    if os.geteuid():
        pytest.skip("becoming another user needs root")
    chance = random.Random(seed)
    limit = chance.randrange(20, 60)
    others = subprocess.Popen(["sleep", "1000"], user=NOBODY, group=NOBODY)
    try:
        taken = take("threads", uid=NOBODY, limits={"RLIMIT_NPROC": limit}, binding="RLIMIT_NPROC")
    finally:
        others.kill()
        others.wait()
    assert taken.told["name"] == f"RLIMIT_NPROC of uid {NOBODY}"
    print(f"RLIMIT_NPROC: {limit}, predicted {taken.predicted}, got {taken.got}")
    assert abs(taken.got - taken.predicted) <= 2


def test_roots_threads_are_not_limited_by_it(take: Callable[..., Taken], pair: Callable[[str], Pair]) -> None:
    groups = pair("pids")
    groups.limit(40, 40)
    taken = take("threads", enter=[f"{groups.inner}/cgroup.procs"], limits={"RLIMIT_NPROC": 5})
    assert not [name for name in taken.told["names"] if "RLIMIT_NPROC" in name]
    assert taken.got > 5


@pytest.mark.parametrize("seed", range(TRIES))
def test_as_much_address_space_as_predicted_can_be_had(take: Callable[..., Taken], seed: int) -> None:
    """It is each process's own: what a worker has taken of it before its task comes is not known, so not `used`."""
    limit = random.Random(seed).randrange(400, 800) * MiB
    taken = take("memory", limits={"RLIMIT_AS": limit}, binding="RLIMIT_AS")
    assert taken.predicted == limit
    left = limit - taken.told["address_space"]
    print(f"RLIMIT_AS: {limit / MiB:.0f} MiB, left {left / MiB:.1f}, got {taken.got}")
    assert taken.got == pytest.approx(left / MiB, rel=0.05)


def test_a_group_that_was_removed_and_made_anew_or_not(pair: Callable[[str], Pair]) -> None:
    groups = pair("pids")
    groups.limit(40, 30)
    inner = Group(Level(str(groups.inner), "/inner", "pids", 1))
    inner.refresh()
    assert [(one.name, one.limit, one.used) for one in inner.limits()] == [("pids.max of /inner", 30, 0)]
    groups.inner.rmdir()
    groups.inner.mkdir()
    groups.limit(40, 20)
    inner.refresh()
    assert [one.limit for one in inner.limits()] == [20]
    groups.inner.rmdir()
    inner.refresh()
    assert (list(inner.limits()), inner.complaints) == ([], [])
    inner.close()
