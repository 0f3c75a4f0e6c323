"""Turns the grid a quarter anticlockwise.

Solves ed36ccf7.
"""


def solve(grid):
    x1 = turn_left(grid)
    return x1
