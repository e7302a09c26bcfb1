"""Records to typed rows."""
