"""Training: the loop, the state that a resume needs, checkpoints, metrics, evaluation."""
