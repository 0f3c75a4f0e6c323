"""Marks with three where one half is filled and the other is not.

Solves 99b1bc43 and 3428a4f5.
"""


def solve(grid):
    x1 = top_half(grid)
    x2 = bottom_half(grid)
    x3 = only_one(x1, x2, 3)
    return x3
