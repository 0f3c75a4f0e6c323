"""Shows the colour of the largest object in two by two cells.

Solves 445eab21.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = largest(x1)
    x3 = colour_of(x2)
    x4 = blank(2, 2, x3)
    return x4
