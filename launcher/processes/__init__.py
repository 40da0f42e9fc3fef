"""The processes of a run: how they start, connect, receive signals, log, fail and end."""
