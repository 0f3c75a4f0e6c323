"""Fills the gaps in objects' boxes with orange.

Solves 60b61512.
"""


def solve(grid):
    x1 = fill_boxes(grid, 7)
    return x1
