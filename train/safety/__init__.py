"""What keeps a run safe: checks after each step, stopping, the watchdog."""
