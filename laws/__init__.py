"""Laws of the loss: annealing, compute, hyperparameters; their fits and forecasts. numpy and scipy only."""
