"""Rendered tables, checked by computing their numbers again."""
