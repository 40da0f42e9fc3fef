"""Checkpoints: their format on disk; writing, finding and reading them, in any layout."""
