"""battctl status --kinds against the stub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Battctl = Callable[..., Any]

KINDS = [
    {
        "kind": "zoo:many", "attempts": 70, "memory_need_bytes": 110 << 20, "threads_need": 2,
        "memory_peak_bytes": 100 << 20, "threads_peak": 1, "learned": True,
    },
    {
        "kind": "a\nb", "attempts": 1, "memory_need_bytes": 128 << 20, "threads_need": 4, "memory_peak_bytes": 0,
        "threads_peak": 0, "learned": False,
    },
]  # fmt: skip


def test_kinds_are_shown(battctl: Battctl, stub: Any) -> None:
    stub.on("GET", "/v1/kinds", KINDS)
    ended = battctl("status", "--kinds")
    assert ended.code == 0
    assert [line.split() for line in ended.out.splitlines()] == [
        ["KIND", "LEARNED", "FROM", "MEMORY", "PEAK", "THREADS", "PEAK", "EXPECTED", "BY"],
        ["zoo:many", "70", "110.0", "MiB", "100.0", "MiB", "2", "1", "what", "it", "took"],
        ["a\\nb", "1", "128.0", "MiB", "0", "B", "4", "-", "the", "default"],
    ]
    assert battctl("status", "--kinds", "--json").json == KINDS


def test_nothing_learned_is_told(battctl: Battctl, stub: Any) -> None:
    stub.on("GET", "/v1/kinds", [])
    assert "nothing was learned yet" in battctl("status", "--kinds").out
    assert battctl("status", "--kinds", "--json").json == []


@pytest.mark.parametrize("what", ["r7", "t12", "arc"])
def test_kinds_are_of_all_runs(battctl: Battctl, stub: Any, what: str) -> None:
    ended = battctl("status", what, "--kinds")
    assert (ended.code, stub.requests) == (2, [])
    assert f"leave out '{what}'" in ended.err
