"""Exchanges the colours five and eight.

Solves d511f180.
"""


def solve(grid):
    x1 = swap_colours(grid, 5, 8)
    return x1
