"""Draws diagonal lines from each cell.

Solves 623ea044.
"""


def solve(grid):
    x1 = star(grid)
    return x1
