"""The service as people see it."""

from __future__ import annotations

from pathlib import Path

from batt_supervisor.config import Settings
from batt_supervisor.core.admission import Hold
from batt_supervisor.core.headroom import Others
from batt_supervisor.core.levels import opened
from batt_supervisor.core.model import NOTHING
from batt_supervisor.daemon.describe import describe
from batt_supervisor.daemon.snapshot import Snapshot
from batt_supervisor.testing import FixedHeadroom


def test_what_waits_for_a_slot_or_its_worker_is_not_told_as_held(tmp_path: Path) -> None:
    shorts = ("slots", "worker", "level", "memory", "trouble")
    snapshot = Snapshot(
        slots=(),
        tasks={},
        reading=FixedHeadroom().reading,
        others=Others(),
        throttle=opened(2),
        promised=NOTHING,
        reserve=NOTHING,
        holds={number: Hold(short, 1, f"short of {short}") for number, short in enumerate(shorts)},
    )
    seen = describe(Settings(state_dir=tmp_path, socket=tmp_path / "socket"), snapshot, 0, "/proc")
    assert seen.holds == {"r2": "short of level", "r3": "short of memory", "r4": "short of trouble"}
