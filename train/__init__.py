"""The loop, the state a resume needs, checkpoints, metrics, evaluation."""
