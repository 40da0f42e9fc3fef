"""What a run is, before any process starts and within a rank."""
