"""Room to start: all that battd needs, or it waits; as many slots as there is room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from batt_supervisor.config import Settings
from batt_supervisor.core.headroom import Entry, Holder, Others
from batt_supervisor.core.model import Space
from batt_supervisor.daemon import room
from batt_supervisor.headroom.ledger import Ledger
from batt_supervisor.testing import FixedHeadroom

MIB = 2**20
OTHER = Others((Holder(1, "/other", Entry(Space(10 * MIB, 30))),))


@pytest.mark.parametrize(
    ("free", "others", "reserve", "fits"),
    [
        (Space(100 * MIB, 21), Others(), Space(0, 0), True),
        (Space(100 * MIB, 20), Others(), Space(0, 0), False),
        (Space(48 * MIB - 1, 21), Others(), Space(0, 0), False),
        (Space(100 * MIB, 51), OTHER, Space(0, 0), True),
        (Space(100 * MIB, 50), OTHER, Space(0, 0), False),
        (Space(100 * MIB, 60), OTHER, Space(0, 10), False),
        (Space(100 * MIB, 61), OTHER, Space(0, 10), True),
    ],
)
def test_there_is_room_or_there_is_not(free: Space, others: Others, reserve: Space, fits: bool) -> None:
    headroom = FixedHeadroom(free.memory_bytes, free.threads)
    need = room.needed(2, 4)
    assert need == Space(room.OWN_MEMORY, 21)  # 5, 4 for each of two slots and the standby, 4 of a task
    assert room.fits(need, headroom.read(0.0).free(), others, reserve) == fits


@pytest.mark.parametrize(("entries", "kept"), [((), False), ((Entry(),), False), ((Entry(running=1),), True)])
def test_the_first_of_all_may_use_the_reserve(tmp_path: Path, entries: tuple[Entry, ...], kept: bool) -> None:
    """Others that wait as it does do not count: they would wait for each other for ever."""
    settings = Settings(state_dir=tmp_path, socket=tmp_path / "s", reserve_memory=100 * MIB, reserve_threads=7)
    others = Others([Holder(1, "/other", entry) for entry in entries])
    reserve = room.reserve_of(settings, FixedHeadroom().read(0.0).free(), others)
    assert reserve == (Space(100 * MIB, 7) if kept else Space(0, 0))


def test_it_takes_as_many_slots_as_there_is_room_for_and_the_others_see_it(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, socket=tmp_path / "s", slots=8)
    ledger, other = Ledger.open(str(tmp_path / "l"), "one"), Ledger.open(str(tmp_path / "l"), "two")
    threads = room.needed(3, settings.need_threads).threads + 3
    other.note(Entry(running=1))  # it has started, so the reserve stays
    assert room.wait(FixedHeadroom(threads=threads + 64), ledger, settings, pytest.fail) == 3
    assert other.others().promised.threads == threads - 3
    ledger.close()
    other.close()


def test_it_waits_and_says_for_what(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, socket=tmp_path / "s", slots=8)
    headroom = FixedHeadroom(threads=5)
    told: list[str] = []

    def tell(reason: str) -> None:
        told.append(reason)
        headroom.set(threads=10_000)

    assert room.wait(headroom, Ledger.open("off", "x"), settings, tell) == 8
    assert told == [
        "17 threads and 48 MiB needed; 5 threads free (threads of the test: 32763 of 32768), 8192 MiB free "
        "(memory of the test: 8192 of 16384 MiB); 0 threads and 0 MiB promised by 0 other supervisors, "
        "0 and 0 MiB in reserve"
    ]
