"""What all the functions share: the shapes of their values, and the bound on how large a grid may become."""

from typing import Final, TypeAlias

Grid: TypeAlias = tuple[tuple[int, ...], ...]
"""Rows of colours, all of one length, at least one cell."""

Object: TypeAlias = tuple[tuple[int, int, int], ...]
"""Cells that belong together, as (row, column, colour), in reading order; never empty."""

Objects: TypeAlias = tuple[Object, ...]
"""Objects in the reading order of their first cells; may be empty."""

MAX_SIDE: Final = 90
"""The longest side a grid may grow to, three times what the data has: it bounds the work of programs gone wrong."""


def require_size(rows: int, columns: int) -> None:
    """Refuse a grid that would be empty or have a side above MAX_SIDE."""
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        raise ValueError(f"a grid of {rows} by {columns} is not possible: each side is 1 to {MAX_SIDE}")


def require_same_size(a: Grid, b: Grid) -> None:
    """Refuse two grids of different height or width."""
    if len(a) != len(b) or len(a[0]) != len(b[0]):
        raise ValueError(f"the grids differ in size: {len(a)} by {len(a[0])} and {len(b)} by {len(b[0])}")
