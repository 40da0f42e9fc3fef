"""What lehr changes in other packages while they are imported."""
