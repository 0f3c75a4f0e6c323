"""Turns the grid by half a turn.

Solves 3c9b0459 and 6150a2bd.
"""


def solve(grid):
    x1 = turn_half(grid)
    return x1
