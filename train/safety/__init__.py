"""What keeps a run safe: the checks after each step, requests to stop, the watchdog."""
