"""Marks with eight where both halves are empty, side by side.

Solves 1b2d62fb.
"""


def solve(grid):
    x1 = left_half(grid)
    x2 = right_half(grid)
    x3 = neither(x1, x2, 8)
    return x3
