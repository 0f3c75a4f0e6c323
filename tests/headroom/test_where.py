"""Which groups enclose this process, as the kernel tells it: v1, v2, both, containers, namespaces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batt_supervisor import cgroups
from batt_supervisor.headroom.where import enclosing

if TYPE_CHECKING:
    from conftest import Written


def found(written: Written, root: str = "auto") -> list[tuple[str, str, str]]:
    """Folder from the root of all, what it is called, controller."""
    places = enclosing(root, written.proc)
    return [(str(Path(one.folder).relative_to(written.root)), one.path, one.controller) for one in places.found]


def mount(written: Written, point: str, top: str, kind: str, options: str) -> str:
    return f"35 31 0:32 {top} {written.root / point} rw,relatime shared:9 - {kind} cgroup {options}\n"


@pytest.mark.parametrize(
    ("path", "top", "inside"),
    [
        ("/", "/", "/"),
        ("/a/b", "/", "/a/b"),
        ("/docker/1", "/docker/1", ""),
        ("/docker/1/a", "/docker/1", "/a"),
        ("/docker/12", "/docker/1", None),
        ("/a", "/docker/1", None),
        ("/", "/../..", None),
        ("/../b", "/", None),
        ("/../b", "/..", "/b"),
        ("/../../b", "/..", None),
        ("/..", "/..", ""),
        ("/a..b", "/", "/a..b"),
    ],
)
def test_a_path_inside_the_group_that_is_mounted(path: str, top: str, inside: str | None) -> None:
    assert cgroups.inside(path, top) == inside


def test_every_group_from_the_root_to_our_own_in_v2(written: Written) -> None:
    written.group("unified/batt.slice/x", {})
    written.put(self__cgroup="0::/batt.slice/x\n", self__mountinfo=mount(written, "unified", "/", "cgroup2", "rw"))
    assert found(written) == [
        ("unified", "/", ""),
        ("unified/batt.slice", "/batt.slice", ""),
        ("unified/batt.slice/x", "/batt.slice/x", ""),
    ]


def test_every_hierarchy_of_a_hybrid_machine_the_outermost_first(written: Written) -> None:
    for name in ("memory/a/b", "pids/p", "cpu,cpuacct/a", "unified/u"):
        written.group(name, {})
    written.put(
        self__cgroup="5:pids:/p\n4:memory:/a/b\n3:cpu,cpuacct:/a\n2:freezer:/\n1:name=systemd:/s\n0::/u\n",
        self__mountinfo=mount(written, "cpu,cpuacct", "/", "cgroup", "rw,cpu,cpuacct")
        + mount(written, "memory", "/", "cgroup", "rw,memory")
        + mount(written, "pids", "/", "cgroup", "rw,pids")
        + mount(written, "unified", "/", "cgroup2", "rw,nsdelegate"),
    )
    assert found(written) == [
        ("unified", "/", ""),
        ("pids", "/", "pids"),
        ("memory", "/", "memory"),
        ("cpu,cpuacct", "/", "cpu"),
        ("unified/u", "/u", ""),
        ("pids/p", "/p", "pids"),
        ("memory/a", "/a", "memory"),
        ("cpu,cpuacct/a", "/a", "cpu"),
        ("memory/a/b", "/a/b", "memory"),
    ]


def test_a_container_whose_own_group_is_mounted_as_the_root(written: Written) -> None:
    written.group("pids/inner", {})
    written.put(
        self__cgroup="8:pids:/docker/1/inner\n", self__mountinfo=mount(written, "pids", "/docker/1", "cgroup", "pids")
    )
    assert found(written) == [("pids", "/docker/1", "pids"), ("pids/inner", "/docker/1/inner", "pids")]


def test_a_container_with_a_namespace_and_a_mount_of_its_own(written: Written) -> None:
    written.group("v2", {})
    written.put(self__cgroup="0::/\n", self__mountinfo=mount(written, "v2", "/", "cgroup2", "rw"))
    assert found(written) == [("v2", "/", "")]


def test_a_namespace_that_sees_a_mount_made_outside_it(written: Written) -> None:
    """The names between the two are hidden: the group that has this process in it is looked for."""
    written.group("pids/pods/other", {"cgroup.procs": "1\n2"})
    written.group("pids/system", {"cgroup.procs": str(os.getpid())})  # not as deep as the namespace is
    written.group("pids/pods/ours/own", {"cgroup.procs": f"1\n{os.getpid()}"})
    written.put(self__cgroup="8:pids:/own\n", self__mountinfo=mount(written, "pids", "/../..", "cgroup", "rw,pids"))
    assert found(written) == [
        ("pids", "/", "pids"),
        ("pids/pods", "/pods", "pids"),
        ("pids/pods/ours", "/pods/ours", "pids"),
        ("pids/pods/ours/own", "/pods/ours/own", "pids"),
    ]


def test_of_two_mounts_the_one_that_shows_more(written: Written) -> None:
    written.group("part/x", {})
    written.group("whole/a/x", {})
    written.put(
        self__cgroup="8:memory:/a/x\n",
        self__mountinfo=mount(written, "part", "/a", "cgroup", "memory")
        + mount(written, "whole", "/", "cgroup", "memory")
        + mount(written, "gone", "/", "cgroup", "memory"),
    )
    assert [folder for folder, _, _ in found(written)] == ["whole", "whole/a", "whole/a/x"]


@pytest.mark.parametrize(
    ("own", "top", "told"),
    [
        ("8:pids:/elsewhere\n", "/docker/1", ["cgroup pids: /elsewhere, which this process is in, cannot be seen"]),
        ("8:pids:/../out\n", "/", ["cgroup pids: /../out, which this process is in, cannot be seen"]),
        ("8:pids:/gone (deleted)\n", "/", ["cgroup pids: /gone (deleted), which this process is in, cannot be seen"]),
        ("8:pids:/\n", "/../..", ["cgroup pids: /, which this process is in, cannot be seen"]),
        ("0::/\n", "/", []),
        ("", "/", []),
    ],
)
def test_a_group_that_cannot_be_seen_is_told(written: Written, own: str, top: str, told: list[str]) -> None:
    written.group("pids", {})
    written.put(self__cgroup=own, self__mountinfo=mount(written, "pids", top, "cgroup", "rw,pids"))
    places = enclosing("auto", written.proc)
    assert (list(places.found), list(places.missing)) == ([], told)


def test_before_linux_5_11_a_group_may_not_count_those_inside(written: Written) -> None:
    written.group("memory/a", {"memory.use_hierarchy": "0"})
    written.group("memory/a/b", {"memory.use_hierarchy": "1"})
    written.group("memory/a/b/c", {"memory.use_hierarchy": "0"})  # our own counts us, whatever it says
    written.put(self__cgroup="8:memory:/a/b/c\n", self__mountinfo=mount(written, "memory", "/", "cgroup", "memory"))
    assert [path for _, path, _ in found(written)] == ["/", "/a/b", "/a/b/c"]


def test_hierarchies_laid_out_in_a_folder(written: Written) -> None:
    written.group("unified", {"cgroup.controllers": ""})
    for name in ("unified/u", "pids/p", "memory/m", "cpu/c", "freezer/f"):
        written.group(name, {})
    written.put(self__cgroup="5:pids:/p\n4:memory:/m\n3:cpu:/c\n2:freezer:/f\n0::/u\n")
    folders = [folder for folder, _, _ in found(written, str(written.root))]
    assert folders == ["unified", "pids", "memory", "cpu", "unified/u", "pids/p", "memory/m", "cpu/c"]


def test_off_is_none(written: Written) -> None:
    assert found(written, "off") == []


@pytest.mark.parametrize("own", ["nonsense\n", None])
def test_what_cannot_be_understood_is_no_place(written: Written, own: str | None) -> None:
    file = written.proc / "self/cgroup"
    file.unlink() if own is None else file.write_text(own)
    with pytest.raises((OSError, ValueError)):
        enclosing("auto", written.proc)
    reading = written.reading("auto")
    assert [word for word in reading.missing if word.startswith("control groups cannot be looked up: ")]
