"""Waiting for what other processes and threads do."""

import time


def until(condition, seconds=60):
    """What the condition gives as soon as it is true; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value
