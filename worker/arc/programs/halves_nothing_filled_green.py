"""Marks with three where both halves are empty, one above the other.

Solves 6430c8c4.
"""


def solve(grid):
    x1 = top_half(grid)
    x2 = bottom_half(grid)
    x3 = neither(x1, x2, 3)
    return x3
