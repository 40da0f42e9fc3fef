"""Transforms of weights and gradients around the optimizer's update: one file each, whatever the optimizer."""
