"""Draws a blue square in the place of each cell.

Solves ce22a75a.
"""


def solve(grid):
    x1 = outline(grid, 1)
    x2 = recolour(x1, 5, 1)
    return x2
