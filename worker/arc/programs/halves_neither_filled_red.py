"""Marks with two where both halves are empty, one above the other.

Solves fafffa47 and 94f9d214.
"""


def solve(grid):
    x1 = top_half(grid)
    x2 = bottom_half(grid)
    x3 = neither(x1, x2, 2)
    return x3
