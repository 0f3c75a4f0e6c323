"""Lines and falling: what happens along rows, columns and diagonals."""

from itertools import pairwise

from worker.arc.dsl.basics import Grid
from worker.arc.dsl.shape import mirror_diagonal, mirror_left_right, mirror_top_bottom, turn_left, turn_right


def join_across(grid: Grid, colour: int) -> Grid:
    """In each row, the background between two cells of one colour with nothing between, in `colour` (0: in theirs)."""
    return tuple(_join(row, colour) for row in grid)


def join_down(grid: Grid, colour: int) -> Grid:
    """In each column, what `join_across` does in each row."""
    return mirror_diagonal(join_across(mirror_diagonal(grid), colour))


def join_diagonally(grid: Grid, colour: int) -> Grid:
    """On each diagonal of both directions, what `join_across` does in each row; rising ones first."""
    return _join_falling(mirror_left_right(_join_falling(mirror_left_right(grid), colour)), colour)


def extend_right(grid: Grid) -> Grid:
    """Every filled cell drawn on to the right, up to the next filled one or the edge."""
    return tuple(_smear(row) for row in grid)


def extend_left(grid: Grid) -> Grid:
    """Every filled cell drawn on to the left, up to the next filled one or the edge."""
    return tuple(_smear(row[::-1])[::-1] for row in grid)


def extend_down(grid: Grid) -> Grid:
    """Every filled cell drawn on downwards, up to the next filled one or the edge."""
    result = [grid[0]]
    for row in grid[1:]:
        result.append(tuple(here or above for here, above in zip(row, result[-1], strict=True)))
    return tuple(result)


def extend_up(grid: Grid) -> Grid:
    """Every filled cell drawn on upwards, up to the next filled one or the edge."""
    return extend_down(grid[::-1])[::-1]


def extend_diagonally(grid: Grid) -> Grid:
    """Every filled cell drawn on down and to the right, up to the next filled one or the edge."""
    result = [grid[0]]
    for row in grid[1:]:
        result.append(tuple(here or above for here, above in zip(row, (0, *result[-1]), strict=False)))
    return tuple(result)


def fall_right(grid: Grid) -> Grid:
    """In each row the filled cells moved to the right end, their order kept."""
    return tuple((0,) * row.count(0) + tuple(c for c in row if c) for row in grid)


def fall_left(grid: Grid) -> Grid:
    """In each row the filled cells moved to the left end, their order kept."""
    return tuple(tuple(c for c in row if c) + (0,) * row.count(0) for row in grid)


def fall_down(grid: Grid) -> Grid:
    """In each column the filled cells moved to the bottom, their order kept."""
    return mirror_diagonal(fall_right(mirror_diagonal(grid)))


def fall_up(grid: Grid) -> Grid:
    """In each column the filled cells moved to the top, their order kept."""
    return mirror_diagonal(fall_left(mirror_diagonal(grid)))


def star(grid: Grid) -> Grid:
    """Every filled cell drawn on along all four diagonals; where two lines cross, one of them stays."""
    falling = extend_diagonally(grid)
    for turn_there, turn_back in (
        (mirror_left_right, mirror_left_right),
        (mirror_top_bottom, mirror_top_bottom),
        (lambda g: turn_right(turn_right(g)), lambda g: turn_left(turn_left(g))),
    ):
        drawn = turn_back(extend_diagonally(turn_there(grid)))
        falling = tuple(tuple(a or b for a, b in zip(p, q, strict=True)) for p, q in zip(falling, drawn, strict=True))
    return falling


def _join(row: tuple[int, ...], colour: int) -> tuple[int, ...]:
    filled = [index for index, value in enumerate(row) if value]
    if len(filled) < 2:
        return row
    result = list(row)
    for start, end in pairwise(filled):
        if row[start] == row[end]:
            result[start + 1 : end] = [colour or row[start]] * (end - start - 1)
    return tuple(result)


def _smear(row: tuple[int, ...]) -> tuple[int, ...]:
    if not any(row):
        return row
    result, last = [], 0
    for value in row:
        last = value or last
        result.append(last)
    return tuple(result)


def _join_falling(grid: Grid, colour: int) -> Grid:
    rows, columns = len(grid), len(grid[0])
    result = [list(row) for row in grid]
    for start in range(1 - rows, columns):
        places = [(r, r + start) for r in range(rows) if 0 <= r + start < columns]
        joined = _join(tuple(grid[r][c] for r, c in places), colour)
        for (r, c), value in zip(places, joined, strict=True):
            result[r][c] = value
    return tuple(map(tuple, result))
