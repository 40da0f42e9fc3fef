"""Pruning criteria: how much a weight is worth."""
