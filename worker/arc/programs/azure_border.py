"""Paints the rim azure.

Solves 6f8cd79b.
"""


def solve(grid):
    x1 = paint_border(grid, 8)
    return x1
