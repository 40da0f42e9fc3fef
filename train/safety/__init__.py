"""The guards of a run: the checks after each step, requests to stop, the watchdog."""
