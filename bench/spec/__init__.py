"""What is asked for: names, options, recipes, sweeps and their hashes. Imports no torch."""
