"""Boards: means, paired differences, ranks."""
