"""Marks with three where a half is filled, one above the other.

Solves ce4f8723.
"""


def solve(grid):
    x1 = top_half(grid)
    x2 = bottom_half(grid)
    x3 = either(x1, x2, 3)
    return x3
