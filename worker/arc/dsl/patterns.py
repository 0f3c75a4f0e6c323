"""Repetition and symmetry: finding it, and putting back what hides it."""

from worker.arc.dsl.basics import Grid, require_size
from worker.arc.dsl.shape import turn_left, turn_right


def four_mirrors(grid: Grid) -> Grid:
    """The grid with its mirror image to the right, and both mirrored below."""
    require_size(2 * len(grid), 2 * len(grid[0]))
    wide = tuple(row + row[::-1] for row in grid)
    return wide + wide[::-1]


def four_turns(grid: Grid) -> Grid:
    """A square grid, and clockwise from it the same after one, two and three quarter turns."""
    if len(grid) != len(grid[0]):
        raise ValueError(f"a grid of {len(grid)} by {len(grid[0])} is not square")
    require_size(2 * len(grid), 2 * len(grid))
    half = tuple(row[::-1] for row in grid[::-1])
    top = tuple(a + b for a, b in zip(grid, turn_right(grid), strict=True))
    return top + tuple(a + b for a, b in zip(turn_left(grid), half, strict=True))


def tile_where(grid: Grid, colour: int) -> Grid:
    """As many copies of the grid as it has cells: one in the place of each cell of this colour, the rest empty."""
    rows, columns = len(grid), len(grid[0])
    require_size(rows * rows, columns * columns)
    empty = (0,) * columns
    return tuple(
        tuple(value for c in row for value in (line if c == colour else empty)) for row in grid for line in grid
    )


def smallest_period(grid: Grid) -> Grid:
    """The smallest part from the top left that, repeated without a rest, gives the grid."""
    rows = next(n for n in range(1, len(grid) + 1) if len(grid) % n == 0 and grid[:n] * (len(grid) // n) == grid)
    turned = tuple(zip(*grid, strict=True))
    columns = next(
        n for n in range(1, len(turned) + 1) if len(turned) % n == 0 and turned[:n] * (len(turned) // n) == turned
    )
    return tuple(row[:columns] for row in grid[:rows])


def restore_tiling(grid: Grid, hidden: int) -> Grid:
    """The cells of colour `hidden` filled in so that the grid repeats the smallest tile that fits the others."""
    if not any(hidden in row for row in grid):
        raise ValueError(f"colour {hidden} hides nothing here")
    rows, columns = len(grid), len(grid[0])
    across = [n for n in range(1, columns // 2 + 1) if all(_repeats(row, n, hidden) for row in grid)]
    turned = tuple(zip(*grid, strict=True))
    down = [n for n in range(1, rows // 2 + 1) if all(_repeats(column, n, hidden) for column in turned)]
    for high, wide in sorted(((h, w) for h in down for w in across), key=lambda size: size[0] * size[1]):
        restored = _tiled(grid, high, wide, hidden)
        if restored is not None:
            return restored
    raise ValueError("no tile repeats over the whole grid")


def restore_mirror(grid: Grid, hidden: int) -> Grid:
    """The cells of colour `hidden` filled in from their mirror images: sideways, upside down, over the diagonals."""
    size = len(grid)
    if size != len(grid[0]):
        raise ValueError(f"a grid of {size} by {len(grid[0])} is not square")
    if not any(hidden in row for row in grid):
        raise ValueError(f"colour {hidden} hides nothing here")
    last = size - 1

    def image(r: int, c: int) -> int:
        for a, b in ((r, c), (c, r)):
            for value in (grid[a][b], grid[a][last - b], grid[last - a][b], grid[last - a][last - b]):
                if value != hidden:
                    return value
        return hidden

    return tuple(tuple(image(r, c) if v == hidden else v for c, v in enumerate(row)) for r, row in enumerate(grid))


def is_symmetric(grid: Grid) -> bool:
    """Whether the grid equals its left-right mirror image."""
    return all(row == row[::-1] for row in grid)


def diagonal(size: int, colour: int) -> Grid:
    """A square grid with this colour on the diagonal from the top left."""
    require_size(size, size)
    return tuple((0,) * index + (colour,) + (0,) * (size - 1 - index) for index in range(size))


def _repeats(cells: tuple[int, ...], period: int, hidden: int) -> bool:
    return all(a in (b, hidden) or b == hidden for a, b in zip(cells, cells[period:], strict=False))


def _tiled(grid: Grid, high: int, wide: int, hidden: int) -> Grid | None:
    """The grid as repetitions of a tile of this size; None where cells contradict it or leave a part of it unknown."""
    tile = [[hidden] * wide for _ in range(high)]
    for r, row in enumerate(grid):
        line = tile[r % high]
        for c, value in enumerate(row):
            known = line[c % wide]
            if known == hidden:
                line[c % wide] = value
            elif value not in (known, hidden):
                return None
    if any(hidden in line for line in tile):
        return None
    columns = len(grid[0])
    return tuple(tuple(tile[r % high] * (columns // wide + 1))[:columns] for r in range(len(grid)))
