"""What a run is: names, options, recipes, sweeps and their hashes. Imports no torch."""
