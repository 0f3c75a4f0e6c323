"""Turning, mirroring, cutting, joining and scaling whole grids."""

from worker.arc.dsl.basics import Grid, require_size


def height(grid: Grid) -> int:
    """The number of rows."""
    return len(grid)


def width(grid: Grid) -> int:
    """The number of columns."""
    return len(grid[0])


def turn_right(grid: Grid) -> Grid:
    """A quarter turn clockwise."""
    return tuple(zip(*grid[::-1], strict=True))


def turn_left(grid: Grid) -> Grid:
    """A quarter turn anticlockwise."""
    return tuple(zip(*grid, strict=True))[::-1]


def turn_half(grid: Grid) -> Grid:
    """Half a turn."""
    return tuple(row[::-1] for row in grid[::-1])


def mirror_left_right(grid: Grid) -> Grid:
    """Left and right exchanged."""
    return tuple(row[::-1] for row in grid)


def mirror_top_bottom(grid: Grid) -> Grid:
    """Top and bottom exchanged."""
    return grid[::-1]


def mirror_diagonal(grid: Grid) -> Grid:
    """Rows become columns: mirrored in the diagonal from the top left."""
    return tuple(zip(*grid, strict=True))


def mirror_antidiagonal(grid: Grid) -> Grid:
    """Mirrored in the diagonal from the top right."""
    return turn_half(mirror_diagonal(grid))


def crop(grid: Grid, top: int, left: int, rows: int, columns: int) -> Grid:
    """The part of `rows` by `columns` cells whose first cell is (top, left); it must lie inside the grid."""
    require_size(rows, columns)
    if top < 0 or left < 0 or top + rows > len(grid) or left + columns > len(grid[0]):
        raise ValueError(
            f"{rows} by {columns} cells at ({top}, {left}) are not inside a grid of {len(grid)} by {len(grid[0])}"
        )
    return tuple(row[left : left + columns] for row in grid[top : top + rows])


def trim(grid: Grid) -> Grid:
    """Without the empty rows and columns around what is not background."""
    filled = [index for index, row in enumerate(grid) if any(row)]
    if not filled:
        raise ValueError("nothing is left of a grid that is all background")
    rows = grid[filled[0] : filled[-1] + 1]
    used = [index for index, column in enumerate(zip(*rows, strict=True)) if any(column)]
    return tuple(row[used[0] : used[-1] + 1] for row in rows)


def peel(grid: Grid) -> Grid:
    """Without its outermost rows and columns."""
    return crop(grid, 1, 1, len(grid) - 2, len(grid[0]) - 2)


def left_half(grid: Grid) -> Grid:
    """The left half; the middle column of an odd width belongs to neither half."""
    half = len(grid[0]) // 2
    require_size(len(grid), half)
    return tuple(row[:half] for row in grid)


def right_half(grid: Grid) -> Grid:
    """The right half; the middle column of an odd width belongs to neither half."""
    half = len(grid[0]) // 2
    require_size(len(grid), half)
    return tuple(row[-half:] for row in grid)


def top_half(grid: Grid) -> Grid:
    """The upper half; the middle row of an odd height belongs to neither half."""
    require_size(len(grid) // 2, len(grid[0]))
    return grid[: len(grid) // 2]


def bottom_half(grid: Grid) -> Grid:
    """The lower half; the middle row of an odd height belongs to neither half."""
    half = len(grid) // 2
    require_size(half, len(grid[0]))
    return grid[-half:]


def band_across(grid: Grid, count: int, index: int) -> Grid:
    """Number `index` (from 0) of `count` equal parts side by side; the width must divide evenly."""
    if count < 1 or len(grid[0]) % count or not 0 <= index < count:
        raise ValueError(f"{len(grid[0])} columns have no part {index} of {count} equal ones")
    size = len(grid[0]) // count
    return tuple(row[index * size : (index + 1) * size] for row in grid)


def band_down(grid: Grid, count: int, index: int) -> Grid:
    """Number `index` (from 0) of `count` equal parts one above the other; the height must divide evenly."""
    if count < 1 or len(grid) % count or not 0 <= index < count:
        raise ValueError(f"{len(grid)} rows have no part {index} of {count} equal ones")
    size = len(grid) // count
    return grid[index * size : (index + 1) * size]


def beside(left: Grid, right: Grid) -> Grid:
    """Two grids of the same height, side by side."""
    if len(left) != len(right):
        raise ValueError(f"grids of {len(left)} and {len(right)} rows do not fit side by side")
    require_size(len(left), len(left[0]) + len(right[0]))
    return tuple(a + b for a, b in zip(left, right, strict=True))


def stack(top: Grid, bottom: Grid) -> Grid:
    """Two grids of the same width, one above the other."""
    if len(top[0]) != len(bottom[0]):
        raise ValueError(f"grids of {len(top[0])} and {len(bottom[0])} columns do not fit above each other")
    require_size(len(top) + len(bottom), len(top[0]))
    return top + bottom


def tile(grid: Grid, down: int, across: int) -> Grid:
    """The grid repeated `down` times below and `across` times beside itself."""
    require_size(len(grid) * down, len(grid[0]) * across)
    return tuple(row * across for row in grid) * down


def scale(grid: Grid, factor: int) -> Grid:
    """Every cell drawn as a square of `factor` by `factor` cells."""
    require_size(len(grid) * factor, len(grid[0]) * factor)
    return tuple(wide for row in grid for wide in (tuple(c for c in row for _ in range(factor)),) * factor)


def shrink(grid: Grid, factor: int) -> Grid:
    """Every `factor` by `factor` square as one cell of its most common colour; the sides must divide evenly."""
    if factor < 1 or len(grid) % factor or len(grid[0]) % factor:
        raise ValueError(f"a grid of {len(grid)} by {len(grid[0])} does not shrink by {factor}")
    shrunk = []
    for top in range(0, len(grid), factor):
        rows = grid[top : top + factor]
        line = []
        for left in range(0, len(grid[0]), factor):
            cells = [c for row in rows for c in row[left : left + factor]]
            line.append(max(sorted(set(cells)), key=cells.count))
        shrunk.append(tuple(line))
    return tuple(shrunk)


def enlarge(grid: Grid, rows: int, columns: int) -> Grid:
    """The grid in the top left corner of an empty one of `rows` by `columns`, which must not be smaller."""
    require_size(rows, columns)
    if rows < len(grid) or columns < len(grid[0]):
        raise ValueError(f"{rows} by {columns} cells have no room for a grid of {len(grid)} by {len(grid[0])}")
    padded = tuple(row + (0,) * (columns - len(row)) for row in grid)
    return padded + ((0,) * columns,) * (rows - len(grid))


def paste(grid: Grid, part: Grid, top: int, left: int) -> Grid:
    """The grid with `part` written over it from (top, left) on; the part must fit inside."""
    if top < 0 or left < 0 or top + len(part) > len(grid) or left + len(part[0]) > len(grid[0]):
        raise ValueError(f"{len(part)} by {len(part[0])} cells at ({top}, {left}) reach over the edge of the grid")
    right = left + len(part[0])
    middle = tuple(
        row[:left] + cells + row[right:] for row, cells in zip(grid[top : top + len(part)], part, strict=True)
    )
    return grid[:top] + middle + grid[top + len(part) :]


def shift(grid: Grid, down: int, across: int) -> Grid:
    """Everything moved by `down` rows and `across` columns (negative: up, left); what passes the edge is lost."""
    rows, columns = len(grid), len(grid[0])
    blank = (0,) * columns
    if abs(down) >= rows or abs(across) >= columns:
        return (blank,) * rows
    moved = (blank,) * down + grid[: rows - down] if down >= 0 else grid[-down:] + (blank,) * -down
    if across >= 0:
        return tuple((0,) * across + row[: columns - across] for row in moved)
    return tuple(row[-across:] + (0,) * -across for row in moved)


def shift_around(grid: Grid, down: int, across: int) -> Grid:
    """Everything moved by `down` rows and `across` columns; what passes the edge comes back on the other side."""
    down, across = down % len(grid), across % len(grid[0])
    moved = grid[-down:] + grid[:-down] if down else grid
    return tuple(row[-across:] + row[:-across] for row in moved) if across else moved


def drop_repeats(grid: Grid) -> Grid:
    """Every row that equals the one above it, and every column that equals the one left of it, left out."""
    return turn_left(_without_equal_neighbours(turn_right(_without_equal_neighbours(grid))))


def every_other(grid: Grid) -> Grid:
    """The first, third, fifth row and so on, and of these the same columns."""
    return tuple(row[::2] for row in grid[::2])


def sort_rows(grid: Grid) -> Grid:
    """The rows ordered by how many filled cells they have, fewest first; equals keep their order."""
    return tuple(sorted(grid, key=lambda row: len(row) - row.count(0)))


def _without_equal_neighbours(grid: Grid) -> Grid:
    return tuple(row for index, row in enumerate(grid) if index == 0 or row != grid[index - 1])
