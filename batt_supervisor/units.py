"""Durations and sizes as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from batt_supervisor.errors import BadInput

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")

# K, M and G alone mean powers of 1024, as they do for systemd and ulimit.
_BYTES: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    **{letter: 1024**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?|\.\d+")


def parse_duration(value: str | float) -> float:
    """Seconds from `"20s"`, `"10m"`, `"1h30m"`, `"500ms"`, `"20"` or `20`; a bare number is seconds.

    Zero is a duration; who needs more than that must say so.

    Raises:
        BadInput: It is none of these.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _bad_duration(value)
    if not isinstance(value, str):
        if not math.isfinite(value) or value < 0:
            raise _bad_duration(value)
        return float(value)
    text = value.strip().lower()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise _bad_duration(value)
    parts = _DURATION_PART.findall(text)
    units = [unit for _, unit in parts]
    if len(set(units)) != len(units):
        raise _bad_duration(value)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_size(value: str | int) -> int:
    """Bytes from `"64MB"` (powers of 1000), `"1GiB"` or `"1G"` (powers of 1024), `"4096"` or `4096`.

    Raises:
        BadInput: It is none of these, or not a whole number of bytes.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _bad_size(value)
    if isinstance(value, int):
        if value < 0:
            raise _bad_size(value)
        return value
    match = _SIZE.fullmatch(value.strip().lower())
    if match is None or match[2] not in _BYTES:
        raise _bad_size(value)
    if match[2] in ("", "b") and "." in match[1]:
        raise _bad_size(value)
    return round(float(match[1]) * _BYTES[match[2]]) if "." in match[1] else int(match[1]) * _BYTES[match[2]]


def format_duration(seconds: float) -> str:
    """`0.21s`, `4.2s`, `42s`, `10m`, `3m05s`, `1h30m`, `2d04h`: short, two units at most."""
    if seconds < 0.0005:
        return "0s"
    if seconds < 1:
        return f"{seconds:.2f}s" if seconds >= 0.01 else f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return _two(whole, 60, "m", 1, "s")
    if whole < 86400:
        return _two(whole, 3600, "h", 60, "m")
    return _two(whole, 86400, "d", 3600, "h")


def _two(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = whole % large // small
    return f"{whole // large}{large_name}" + (f"{rest:02d}{small_name}" if rest else "")


def format_size(size_bytes: int) -> str:
    """`512 B`, `64.0 MiB`, `1.5 GiB`; powers of 1024."""
    if size_bytes < 0:
        return f"-{format_size(-size_bytes)}"
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if round(size, 1) < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def _bad_duration(value: object) -> BadInput:
    return BadInput(f"{value!r} is not a duration: write for example '20s', '10m', '1h30m' or '500ms'")


def _bad_size(value: object) -> BadInput:
    return BadInput(f"{value!r} is not a size: write for example '64MB', '512MiB' or '1GiB'")
