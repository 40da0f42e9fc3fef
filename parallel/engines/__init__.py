"""The engines: they reduce gradients and step the optimizer, each with its own sharding."""
