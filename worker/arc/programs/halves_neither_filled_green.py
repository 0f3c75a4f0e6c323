"""Marks with three where both halves are empty, side by side.

Solves f2829549.
"""


def solve(grid):
    x1 = left_half(grid)
    x2 = right_half(grid)
    x3 = neither(x1, x2, 3)
    return x3
