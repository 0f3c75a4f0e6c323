"""Draws every cell twice as wide and high.

Solves c59eb873.
"""


def solve(grid):
    x1 = scale(grid, 2)
    return x1
