"""Fitting a law to loss curves, and how sure the fit is."""
