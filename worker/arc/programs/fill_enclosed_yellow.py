"""Fills enclosed areas with yellow.

Solves 00d62c1b.
"""


def solve(grid):
    x1 = fill_enclosed(grid, 4)
    return x1
