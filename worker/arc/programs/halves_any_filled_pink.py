"""Marks with six where a half is filled, side by side.

Solves dae9d2b5.
"""


def solve(grid):
    x1 = left_half(grid)
    x2 = right_half(grid)
    x3 = either(x1, x2, 6)
    return x3
