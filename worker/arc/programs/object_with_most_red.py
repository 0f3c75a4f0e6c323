"""Cuts out the object with most cells of colour two.

Solves 1cf80156 and 8efcae92 and e50d258f.
"""


def solve(grid):
    x1 = objects_of_any_colour(grid)
    x2 = with_most_of(x1, 2)
    x3 = view(grid, x2)
    return x3
