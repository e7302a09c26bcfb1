"""The battery: checks that every method passes, and the check of architectures."""
