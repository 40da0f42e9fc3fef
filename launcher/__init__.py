"""The command line, the run config, the ranks' environment."""
