"""Areas: what is enclosed, what is near, what a bounding box holds."""

from worker.arc.dsl.basics import Grid
from worker.arc.dsl.objects import objects_of_any_colour


def fill_enclosed(grid: Grid, colour: int) -> Grid:
    """Background that cannot reach the edge of the grid (not over corners) in this colour."""
    rows, columns = len(grid), len(grid[0])
    inside = {(r, c) for r, row in enumerate(grid) for c, value in enumerate(row) if not value}
    todo = [(r, c) for r, c in inside if r in (0, rows - 1) or c in (0, columns - 1)]
    inside.difference_update(todo)
    while todo and inside:
        r, c = todo.pop()
        for there in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            if there in inside:
                inside.discard(there)
                todo.append(there)
    if not inside:
        return grid
    return tuple(tuple(colour if (r, c) in inside else v for c, v in enumerate(row)) for r, row in enumerate(grid))


def outline(grid: Grid, colour: int) -> Grid:
    """Background that touches something filled, corners included, in this colour."""
    rows, columns = len(grid), len(grid[0])
    result = [list(row) for row in grid]
    for r, row in enumerate(grid):
        for c, value in enumerate(row):
            if value:
                for near in range(max(r - 1, 0), min(r + 2, rows)):
                    for beside in range(max(c - 1, 0), min(c + 2, columns)):
                        if not grid[near][beside]:
                            result[near][beside] = colour
    return tuple(map(tuple, result))


def fill_boxes(grid: Grid, colour: int) -> Grid:
    """Background inside the bounding box of an object of any colours in this colour."""
    result = [list(row) for row in grid]
    for item in objects_of_any_colour(grid):
        columns = [column for _, column, _ in item]
        left, right = min(columns), max(columns) + 1
        for r in range(item[0][0], item[-1][0] + 1):
            result[r][left:right] = [value or colour for value in result[r][left:right]]
    return tuple(map(tuple, result))


def cut_where(grid: Grid, mask: Grid, colour: int) -> Grid:
    """The part of `grid` inside the bounding box that `colour` has in `mask`."""
    rows = [index for index, row in enumerate(mask) if colour in row]
    if not rows:
        raise ValueError(f"colour {colour} does not occur")
    columns = [index for index, column in enumerate(zip(*mask, strict=True)) if colour in column]
    if rows[-1] >= len(grid) or columns[-1] >= len(grid[0]):
        raise ValueError(f"colour {colour} reaches over the edge of the grid that is cut")
    return tuple(row[columns[0] : columns[-1] + 1] for row in grid[rows[0] : rows[-1] + 1])


def cut_colour(grid: Grid, colour: int) -> Grid:
    """The part of the grid inside the bounding box of all cells of this colour."""
    return cut_where(grid, grid, colour)
