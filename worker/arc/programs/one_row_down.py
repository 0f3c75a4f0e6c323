"""Moves everything down by one row.

Solves 25ff71a9.
"""


def solve(grid):
    x1 = shift(grid, 1, 0)
    return x1
