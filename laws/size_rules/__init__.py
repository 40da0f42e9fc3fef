"""Rules of how lr, batch and weight decay go with the size of the model and the tokens of the run."""
