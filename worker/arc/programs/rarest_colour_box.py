"""Cuts out the box that the least common colour takes up.

Solves 0b148d64 and 1cf80156 and 1f85a75f and 23b5c85d and c909285e.
"""


def solve(grid):
    x1 = least_common_colour(grid)
    x2 = cut_colour(grid, x1)
    return x2
