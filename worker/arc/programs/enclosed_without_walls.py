"""Keeps only what was enclosed, in green.

Solves d5d6de2d.
"""


def solve(grid):
    x1 = fill_enclosed(grid, 3)
    x2 = keep_colour(x1, 3)
    return x2
