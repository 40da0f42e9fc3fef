"""Loss curves and columns of numbers, read from run folders and CSV files."""
