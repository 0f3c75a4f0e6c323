"""Puts the grid beside itself.

Solves a416b8f3.
"""


def solve(grid):
    x1 = beside(grid, grid)
    return x1
