"""Token shards on disk: their description, their tokens and their hashes."""
