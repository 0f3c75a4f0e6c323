"""Recolours six to two.

Solves b1948b0a.
"""


def solve(grid):
    x1 = recolour(grid, 6, 2)
    return x1
