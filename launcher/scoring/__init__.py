"""The scores of documents by the checkpoints of runs: which files of scores are missing, their making, the report."""
