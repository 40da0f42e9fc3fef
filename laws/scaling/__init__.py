"""Laws over model size, data, batch and width."""
