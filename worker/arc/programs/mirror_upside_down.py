"""Exchanges top and bottom.

Solves 68b16354.
"""


def solve(grid):
    x1 = mirror_top_bottom(grid)
    return x1
