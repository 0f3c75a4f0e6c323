"""Puts the grid and its three turned copies in a square.

Solves 46442a0e and 7fe24cdd.
"""


def solve(grid):
    x1 = four_turns(grid)
    return x1
