"""Puts the mirror image above.

Solves 4c4377d9.
"""


def solve(grid):
    x1 = mirror_top_bottom(grid)
    x2 = stack(x1, grid)
    return x2
