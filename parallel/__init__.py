"""The mesh, Megatron's layers and schedules, the engines that reduce gradients and step optimizers."""
