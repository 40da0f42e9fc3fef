"""Forecasts of a run's loss while it runs, and the alarm for a run that leaves the band of its forecast."""
