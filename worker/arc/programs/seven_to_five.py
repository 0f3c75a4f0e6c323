"""Recolours seven to five.

Solves c8f0f002.
"""


def solve(grid):
    x1 = recolour(grid, 7, 5)
    return x1
