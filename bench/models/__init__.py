"""Architectures, and what any network is asked and restored to. Sites and slices are elsewhere."""
