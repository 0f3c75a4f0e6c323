"""Marks with two where both halves are filled, side by side.

Solves 0520fde7.
"""


def solve(grid):
    x1 = left_half(grid)
    x2 = right_half(grid)
    x3 = both(x1, x2, 2)
    return x3
