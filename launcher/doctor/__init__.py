"""The checks of `lehr doctor`: Python and its packages, and the machine."""
