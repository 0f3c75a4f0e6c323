"""Mirrors the grid so that its bottom right corner meets in the middle.

Solves 8d5021e8.
"""


def solve(grid):
    x1 = mirror_left_right(grid)
    x2 = beside(x1, grid)
    x3 = mirror_top_bottom(x2)
    x4 = stack(x3, x2)
    x5 = stack(x4, x3)
    return x5
