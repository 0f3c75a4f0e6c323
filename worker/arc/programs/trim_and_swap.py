"""Cuts out a picture of two colours, and exchanges them.

Solves 1cf80156 and b94a9452.
"""


def solve(grid):
    x1 = trim(grid)
    x2 = most_common_colour(x1)
    x3 = least_common_colour(x1)
    x4 = swap_colours(x1, x2, x3)
    return x4
