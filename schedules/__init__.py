"""Learning-rate schedules, for training and for the laws of the loss. A schedule is one file here.

The room needs only numpy and settings, so that every other room may import it.
"""
