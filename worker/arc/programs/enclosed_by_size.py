"""Fills enclosed squares by their size.

Solves c0f76784.
"""


def solve(grid):
    x1 = fill_enclosed(grid, 8)
    x2 = objects_in(x1, 8)
    x3 = of_size(x2, 1)
    x4 = of_size(x2, 4)
    x5 = paint(x1, x3, 6)
    x6 = paint(x5, x4, 7)
    return x6
