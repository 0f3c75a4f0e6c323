"""Draws a blue line round everything.

Solves 4258a5f9.
"""


def solve(grid):
    x1 = outline(grid, 1)
    return x1
