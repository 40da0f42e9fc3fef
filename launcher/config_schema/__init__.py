"""The JSON schema of the run config: made from its classes, listed as text, and kept in a file for quick readers."""
