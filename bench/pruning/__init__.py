"""Sites, gates, exact slices, cost models, and which units are kept. No training and no method."""
