"""Cuts out the object that occurs most often.

Solves 1cf80156 and 39a8645d and d9fac9be.
"""


def solve(grid):
    x1 = objects_touching(grid)
    x2 = most_frequent(x1)
    x3 = cut_out(x2)
    return x3
