"""Exchanges four pairs of colours.

Solves 0d3d703e and b1948b0a.
"""


def solve(grid):
    x1 = swap_colours(grid, 1, 5)
    x2 = swap_colours(x1, 2, 6)
    x3 = swap_colours(x2, 3, 4)
    x4 = swap_colours(x3, 8, 9)
    return x4
