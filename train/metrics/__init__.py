"""The metrics of a step, their forecast, and where they are logged."""
