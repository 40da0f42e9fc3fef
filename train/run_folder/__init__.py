"""The run folder: its paths, its record of starts, and the checks before a resume."""
