"""Runs as Slurm jobs: the batch file, the decision whether a job starts again, and the record of its attempts."""
