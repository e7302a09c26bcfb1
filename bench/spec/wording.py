"""Numbers in sentences."""


def plural(number: float, noun: str) -> str:
    """``1 run``, ``2 runs``, ``0.5 points``."""
    return f"{number:.12g} {noun}{'s' * (number != 1)}"


def percent(share: float) -> str:
    """A share in percent, as short as it may be: ``8 %``, ``0.3 %``, ``< 0.1 %``."""
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.2g} %"
