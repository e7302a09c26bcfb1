"""Data sets: image files and arrays to batches on a device, in an order that the seed gives."""

from typing import Any

from bench import moved


def __getattr__(name: str) -> Any:
    if name not in moved.DATA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.data import loading

    moved.warn(f"bench.data.{name}", f"bench.data.loading.{name}")
    return getattr(loading, name)
