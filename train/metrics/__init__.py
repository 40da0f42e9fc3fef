"""What a step measured, and where it is shown."""
