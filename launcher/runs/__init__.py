"""The runs of a folder as a family: which began from a checkpoint of which, and where each stands."""
