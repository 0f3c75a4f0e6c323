"""Draws every cell on downwards.

Solves d037b0a7.
"""


def solve(grid):
    x1 = extend_down(grid)
    return x1
