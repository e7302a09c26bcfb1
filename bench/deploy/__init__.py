"""From the board to the user's own network: prune it in their process, save it, load it."""
