"""Pure measurements: a network in, a small dictionary out."""
