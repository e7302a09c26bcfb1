"""Records: their schema, and how they are written and read. Imports no torch."""
