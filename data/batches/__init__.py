"""The batches of a training run, each a pure function of the step, and those of the held-out split."""
