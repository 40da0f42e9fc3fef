"""Profiling chosen steps on chosen ranks: traces of their time, snapshots of their memory."""
