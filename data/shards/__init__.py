"""Shards on disk: their description, their tokens, their hashes."""
