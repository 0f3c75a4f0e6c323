"""Fills enclosed areas red, and the ground green.

Solves 7b6016b9.
"""


def solve(grid):
    x1 = fill_enclosed(grid, 2)
    x2 = recolour(x1, 0, 3)
    return x2
