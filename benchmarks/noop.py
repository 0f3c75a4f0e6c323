"""The task that the throughput benchmark runs: nothing."""

from __future__ import annotations


def noop(number: int) -> int:
    return number
