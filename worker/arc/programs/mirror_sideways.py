"""Exchanges left and right.

Solves 67a3c6ac.
"""


def solve(grid):
    x1 = mirror_left_right(grid)
    return x1
