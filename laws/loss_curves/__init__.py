"""The laws of a loss curve. A law is one file here."""
