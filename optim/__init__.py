"""Optimizers, parameter tables, learning-rate schedules.

Sees (name, parameter) pairs and the ranks that share a matrix.
"""
