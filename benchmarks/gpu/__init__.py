"""The measurements on a machine with one GPU: `make gpu`, phase by phase, into one record."""
