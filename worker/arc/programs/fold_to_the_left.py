"""Folds the right half over the left one.

Solves e3497940.
"""


def solve(grid):
    x1 = left_half(grid)
    x2 = right_half(grid)
    x3 = mirror_left_right(x2)
    x4 = overlay(x1, x3)
    return x4
