"""The build: text to token shards, with datatrove."""
