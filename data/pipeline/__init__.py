"""The build, which makes token shards of text with datatrove."""
