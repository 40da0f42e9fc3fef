"""Batches of a training run, as a pure function of the step."""
