"""One run from its specification to its record, and a record verified or run again."""
