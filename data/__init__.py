"""Data: text becomes token shards, and token shards become batches. The room sees data_rank and data_size, no mesh."""
