"""From records to tables. Knows no torch and no method."""
