"""Figures of boards and runs."""
