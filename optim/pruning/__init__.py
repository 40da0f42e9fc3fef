"""The parts of pruning: how sparsity rises, the score of a weight, the weights that are chosen over all ranks."""
