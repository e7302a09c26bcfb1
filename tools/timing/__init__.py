"""Scripts that measure time, memory and statistics of the suite: ``python -m tools.timing.NAME``."""
