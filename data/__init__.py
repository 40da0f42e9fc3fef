"""Text to token shards, and token shards to batches. Sees two ints, data_rank and data_size, never the mesh."""
