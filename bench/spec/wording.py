"""Numbers in sentences."""


def plural(number: float, noun: str) -> str:
    """``1 run``, ``2 runs``, ``0.5 points``."""
    return f"{number:.12g} {noun}{'s' * (number != 1)}"
