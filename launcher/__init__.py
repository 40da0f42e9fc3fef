"""The command line, the run config, and the processes of a run."""
