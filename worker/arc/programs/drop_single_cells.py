"""Takes out the objects of one cell.

Solves 42a50994.
"""


def solve(grid):
    x1 = objects_touching(grid)
    x2 = of_size(x1, 1)
    x3 = paint(grid, x2, 0)
    return x3
