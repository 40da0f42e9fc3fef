"""The run folder: its paths, its record of starts, and what a resume may change."""
