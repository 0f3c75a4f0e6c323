"""Draws every cell three times as wide and high.

Solves 9172f3a0.
"""


def solve(grid):
    x1 = scale(grid, 3)
    return x1
