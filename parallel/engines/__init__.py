"""The engines: they reduce gradients, clip them and step the optimizer, each with its own sharding over data ranks."""
