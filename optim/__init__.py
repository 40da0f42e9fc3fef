"""Optimizers, and the tables that assign them to parameters.

The room sees named parameters and the tensor ranks that share a matrix, never the mesh or the model.
"""
