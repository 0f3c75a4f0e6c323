"""Lets everything fall.

Solves 1e0a9b12.
"""


def solve(grid):
    x1 = fall_down(grid)
    return x1
