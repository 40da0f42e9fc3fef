"""Changes to other packages: what they are, why no setting serves instead, and a test that each is still needed."""
