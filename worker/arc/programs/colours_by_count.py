"""Lists the colours, most common first, without the ground.

Solves f8ff0b80.
"""


def solve(grid):
    x1 = colours_down(grid)
    return x1
