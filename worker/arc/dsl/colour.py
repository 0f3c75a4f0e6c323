"""Colours: counting them, exchanging them, and laying one grid over another."""

from collections import Counter

from worker.arc.dsl.basics import Grid, require_same_size, require_size


def blank(rows: int, columns: int, colour: int) -> Grid:
    """A grid of `rows` by `columns` cells of one colour."""
    require_size(rows, columns)
    return ((colour,) * columns,) * rows


def cell(grid: Grid, row: int, column: int) -> int:
    """The colour at (row, column), counted from 0; negative numbers count from the last."""
    if not (-len(grid) <= row < len(grid) and -len(grid[0]) <= column < len(grid[0])):
        raise ValueError(f"there is no cell ({row}, {column}) in a grid of {len(grid)} by {len(grid[0])}")
    return grid[row][column]


def count_colour(grid: Grid, colour: int) -> int:
    """How many cells have this colour."""
    return sum(row.count(colour) for row in grid)


def count_filled(grid: Grid) -> int:
    """How many cells are not background."""
    return len(grid) * len(grid[0]) - count_colour(grid, 0)


def count_colours(grid: Grid) -> int:
    """How many colours there are, without the background."""
    return len(set().union(*grid) - {0})


def most_common_colour(grid: Grid) -> int:
    """The colour of most cells, background not counted; of equals the lowest."""
    return _by_count(grid)[0]


def least_common_colour(grid: Grid) -> int:
    """The colour of fewest cells, background not counted; of equals the highest."""
    return _by_count(grid)[-1]


def colours_down(grid: Grid) -> Grid:
    """One column with the colours of the grid, most common first, without the background."""
    return tuple((colour,) for colour in _by_count(grid))


def filled_across(grid: Grid) -> Grid:
    """One row with the filled cells of the grid in reading order."""
    cells = tuple(colour for row in grid for colour in row if colour)
    require_size(1, len(cells))
    return (cells,)


def recolour(grid: Grid, old: int, new: int) -> Grid:
    """Every cell of colour `old` in colour `new`."""
    return tuple(tuple(new if c == old else c for c in row) if old in row else row for row in grid)


def recolour_filled(grid: Grid, colour: int) -> Grid:
    """Every cell that is not background in this colour."""
    return tuple(tuple(colour if c else 0 for c in row) for row in grid)


def recolour_others(grid: Grid, kept: int, colour: int) -> Grid:
    """Every cell but those of colour `kept`, the background too, in this colour."""
    return tuple(tuple(c if c == kept else colour for c in row) for row in grid)


def swap_colours(grid: Grid, a: int, b: int) -> Grid:
    """Colours `a` and `b` exchanged."""
    swapped = {a: b, b: a}
    return tuple(tuple(swapped.get(c, c) for c in row) for row in grid)


def keep_colour(grid: Grid, colour: int) -> Grid:
    """Only the cells of this colour; the rest is background."""
    return tuple(tuple(c if c == colour else 0 for c in row) for row in grid)


def overlay(bottom: Grid, top: Grid) -> Grid:
    """Two grids of one size: where `top` has background, `bottom` shows through."""
    require_same_size(bottom, top)
    return tuple(tuple(t or b for b, t in zip(low, high, strict=True)) for low, high in zip(bottom, top, strict=True))


def paint_border(grid: Grid, colour: int) -> Grid:
    """The outermost rows and columns in this colour."""
    edge = (colour,) * len(grid[0])
    sides = tuple((colour, *row[1:-1], colour)[: len(row)] for row in grid)
    return (edge, *sides[1:-1], edge)[: len(grid)]


def paint_empty_lines(grid: Grid, colour: int) -> Grid:
    """Every row and every column that is all background in this colour."""
    columns = [not any(column) for column in zip(*grid, strict=True)]
    full = (colour,) * len(grid[0])
    return tuple(
        tuple(colour if empty else c for c, empty in zip(row, columns, strict=True)) if any(row) else full
        for row in grid
    )


def mark_uniform_rows(grid: Grid, colour: int) -> Grid:
    """Every row that is of one colour throughout in `colour`, every other row empty."""
    size = len(grid[0])
    return tuple((colour,) * size if row.count(row[0]) == size else (0,) * size for row in grid)


def smooth_rows(grid: Grid) -> Grid:
    """Every row in its most common colour, background counted; of equals the lowest."""
    return tuple((_mode(row),) * len(row) for row in grid)


def smooth_columns(grid: Grid) -> Grid:
    """Every column in its most common colour, background counted; of equals the lowest."""
    return (tuple(_mode(column) for column in zip(*grid, strict=True)),) * len(grid)


def _mode(cells: tuple[int, ...]) -> int:
    return max(sorted(set(cells)), key=cells.count)


def _by_count(grid: Grid) -> list[int]:
    counts = Counter(colour for row in grid for colour in row if colour)
    if not counts:
        raise ValueError("a grid that is all background has no colours")
    return sorted(counts, key=lambda colour: (-counts[colour], colour))
