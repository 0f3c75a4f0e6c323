from __future__ import annotations

import pytest

from batt_supervisor.errors import BadInput
from batt_supervisor.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20s", 20), ("10m", 600), ("1h30m", 5400), ("500ms", 0.5), ("1.5h", 5400), ("2d", 172800), ("20", 20),
        (" 20S ", 20), (20, 20), (0.25, 0.25), ("0", 0), ("1m500ms", 60.5), (".5", 0.5),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_people_write_it(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "20x", "-1s", "1s1s", "1 h", "nan", "inf", True, -1, float("nan"), None, []])
def test_what_is_no_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(BadInput, match="'20s'"):
        parse_duration(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MB", 64_000_000), ("1GiB", 2**30), ("1G", 2**30), ("1.5KiB", 1536), ("4096", 4096), (4096, 4096),
        ("10b", 10), ("2 mib", 2**21), (0, 0),
    ],
)  # fmt: skip
def test_a_size_is_read_as_people_write_it(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1.5", "1XB", "-1", -1, True, 1.5, None])
def test_what_is_no_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(BadInput, match="'64MB'"):
        parse_size(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.004, "4ms"), (0.21, "0.21s"), (4.2, "4.2s"), (9.97, "10s"), (59.6, "1m"), (185, "3m05s"),
        (600, "10m"), (5400, "1h30m"), (187200, "2d04h"),
    ],
)  # fmt: skip
def test_a_duration_is_shown_in_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (3 * 2**39, "1.5 TiB"),
        (-1024, "-1.0 KiB"),
    ],
)
def test_a_size_is_shown_in_its_nearest_unit(size: int, text: str) -> None:
    assert format_size(size) == text
