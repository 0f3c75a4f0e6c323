"""Which limit an attempt is over, when it is stalled, and when starved."""

from __future__ import annotations

from typing import Any

import pytest

from batt_supervisor.core.limits import Quiet, Sample, at_wall_limit, breach, listen
from batt_supervisor.core.model import Limits, Outcome, Tries

MIB = 2**20


def sample(**given: Any) -> Sample:
    return Sample(**{"cpu_s": 1.0, "memory_bytes": 50 * MIB, "threads": 3, "output_bytes": MIB, "beats": 0} | given)


@pytest.mark.parametrize(
    ("limits", "used", "outcome", "words"),
    [
        ({}, {"cpu_s": 1e6, "memory_bytes": 2**40, "threads": 10**6, "output_bytes": 2**40}, None, ""),
        ({"memory_limit_bytes": 50 * MIB}, {}, None, ""),
        ({"memory_limit_bytes": 49 * MIB}, {}, Outcome.MEMORY_LIMIT, "held 50 MiB of memory, the limit is 49 MiB"),
        ({"memory_limit_bytes": 60 * MIB}, {"memory_kills": 1}, Outcome.MEMORY_LIMIT, "killed one of its processes at"),
        ({}, {"memory_kills": 1}, None, ""),
        ({"thread_limit": 3}, {}, None, ""),
        ({"thread_limit": 2}, {}, Outcome.THREAD_LIMIT, "had 3 threads and processes, the limit is 2"),
        ({"thread_limit": 3}, {"threads_refused": 1}, Outcome.THREAD_LIMIT, "than the limit of 3"),
        ({}, {"threads_refused": 1}, None, ""),
        ({"output_limit_bytes": MIB}, {}, None, ""),
        ({"output_limit_bytes": MIB // 2}, {}, Outcome.OUTPUT_LIMIT, "wrote 1.0 MiB of output, the limit is 0.5 MiB"),
        ({"cpu_limit_s": 1.0}, {}, None, ""),
        ({"cpu_limit_s": 0.9}, {}, Outcome.CPU_LIMIT, "used 1.00 s of CPU, the limit is 0.9 s"),
    ],
)
def test_a_limit_is_passed_when_more_than_it_is_used(
    limits: dict[str, Any], used: dict[str, Any], outcome: Outcome | None, words: str
) -> None:
    found = breach(Limits(60.0, **limits), sample(**used))
    if outcome is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] is outcome
        assert words in found[1]


@pytest.mark.parametrize(
    ("used", "since_s"),
    [
        ({"cpu_s": 1.0}, 5.0),
        ({"cpu_s": 1.02}, 5.0),  # what looking around costs
        ({"cpu_s": 1.2}, 9.0),
        ({"cpu_s": 1.0, "beats": 1}, 9.0),
    ],
)
def test_a_sign_of_life_is_cpu_or_a_heartbeat(used: dict[str, Any], since_s: float) -> None:
    quiet = listen(Quiet(5.0, cpu_s=1.0), sample(**used), stall_timeout_s=10.0, now_s=9.0)
    assert quiet.since_s == since_s


def test_a_little_cpu_adds_up_to_a_sign_of_life() -> None:
    quiet = Quiet(0.0)
    for step in range(1, 11):
        quiet = listen(quiet, sample(cpu_s=step * 0.03), stall_timeout_s=10.0, now_s=float(step))
    assert quiet.since_s > 0


@pytest.mark.parametrize(
    ("cpu_s", "waited_s", "starved", "outcome"),
    [
        (None, None, 0, Outcome.TIMEOUT),
        (0.5, None, 0, Outcome.TIMEOUT),
        (0.5, 9.0, 0, Outcome.STARVED),
        (0.5, 9.0, 1, Outcome.STARVED),
        (0.5, 9.0, 2, Outcome.TIMEOUT),
        (4.9, 5.1, 0, Outcome.STARVED),
        (5.0, 5.1, 0, Outcome.TIMEOUT),  # had CPU for half of the time
        (4.9, 5.0, 0, Outcome.TIMEOUT),  # waited for no more than half of it
        (0.0, 0.0, 0, Outcome.TIMEOUT),  # slept
    ],
)
def test_starved_is_what_had_no_cpu_and_wanted_it(
    cpu_s: float | None, waited_s: float | None, starved: int, outcome: Outcome
) -> None:
    assert at_wall_limit(10.0, cpu_s, waited_s, Tries(starved=starved))[0] is outcome
