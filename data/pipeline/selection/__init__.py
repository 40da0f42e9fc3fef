"""The selection stages of a build: targets, scores, and the choice among all documents of the pool."""
