"""Colours the gaps in a grid by how many cells they have.

Solves e8593010.
"""


def solve(grid):
    x1 = objects_in(grid, 0)
    x2 = of_size(x1, 1)
    x3 = of_size(x1, 2)
    x4 = of_size(x1, 3)
    x5 = paint(grid, x2, 3)
    x6 = paint(x5, x3, 2)
    x7 = paint(x6, x4, 1)
    return x7
