"""`lehr law`: curves, scaling, width; what their options mean; their plots."""
