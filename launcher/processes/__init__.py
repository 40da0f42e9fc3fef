"""The processes of a run: how they start, meet, are signalled, fail and log."""
