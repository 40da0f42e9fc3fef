"""A rehearsal of a run on this machine's CPU: the same layout and the real shards with a small model."""
