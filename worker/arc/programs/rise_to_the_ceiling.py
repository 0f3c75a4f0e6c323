"""Lets everything rise.

Solves 3906de3d.
"""


def solve(grid):
    x1 = fall_up(grid)
    return x1
