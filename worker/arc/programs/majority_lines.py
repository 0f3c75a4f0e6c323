"""Cleans stripes of noise, in the direction that they run.

Solves e26a3af2.
"""


def solve(grid):
    x1 = smooth_rows(grid)
    x2 = smooth_columns(grid)
    x3 = closest(grid, x1, x2)
    return x3
