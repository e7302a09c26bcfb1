"""Hashes and seeds that follow from values, and names as parts of paths."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the text that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def widths_sha256(widths: Mapping[str, Sequence[int]]) -> str:
    """Hash of a network's shape, given site -> units before and after: equal where the same number is left in each.

    It says nothing of the architecture, whose hash belongs to the shape.
    """
    return digest({site: after for site, (_, after) in widths.items()})


@functools.lru_cache(maxsize=4096)
def path_component(name: str) -> str:
    """``name`` as one part of a path: letters, digits and ``._+@-`` stay, at most 80 characters; others become ``-``.

    Different names can map to one component; append a hash where it must be unique.
    """
    return re.sub(r"[^A-Za-z0-9._+@-]+|^\.+", "-", name)[:80]


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed for one purpose, so that random streams do not depend on each other."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
