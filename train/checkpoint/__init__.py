"""Checkpoints: their format on disk, writing, finding, reading in another layout."""
