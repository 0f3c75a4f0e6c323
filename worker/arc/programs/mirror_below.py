"""Puts the mirror image below.

Solves 8be77c9e and 6fa7a44f.
"""


def solve(grid):
    x1 = mirror_top_bottom(grid)
    x2 = stack(grid, x1)
    return x2
