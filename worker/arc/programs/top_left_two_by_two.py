"""Keeps two rows and columns of the corner.

Solves d10ecb37.
"""


def solve(grid):
    x1 = crop(grid, 0, 0, 2, 2)
    return x1
