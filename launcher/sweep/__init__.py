"""A sweep: the points of a grid, the processes that train them, their records, and the table and plot at the end."""
