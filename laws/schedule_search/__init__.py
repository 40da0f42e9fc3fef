"""The schedule that a law would choose."""
