"""A run: its config and the checks before any process starts, and its parts within a rank."""
