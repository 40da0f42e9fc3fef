"""Optimizers and parameter tables.

Sees (name, parameter) pairs and the ranks that share a matrix.
"""
