"""Cuts out the largest object.

Solves 1cf80156 and 1f85a75f and be94b721.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = largest(x1)
    x3 = cut_out(x2)
    return x3
