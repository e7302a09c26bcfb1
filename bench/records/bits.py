"""Bits in records, as text: which test images are right, which units are kept. Needs no torch.

The text is base64 of the bits, eight a byte, the first one highest, or of their zlib stream where that is shorter.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Bits = np.ndarray[tuple[int], np.dtype[np.bool_]]


def pack(bits: Bits) -> str:
    """The text of ``bits``, bool ``[N]``."""
    import numpy as np

    raw = np.packbits(np.asarray(bits, dtype=bool)).tobytes()
    return base64.b64encode(min(raw, zlib.compress(raw, 9), key=len)).decode()


def unpack(text: str, count: int) -> Bits:
    """The inverse of :func:`pack` for so many bits, bool ``[count]``; raises ValueError where it has not so many."""
    import numpy as np

    return np.unpackbits(np.frombuffer(as_bytes(text, count), dtype=np.uint8), count=count).astype(bool)


def as_bytes(text: str, count: int) -> bytes:
    """The bits of ``text``, eight a byte; raises ValueError unless it has ``count`` of them and no more."""
    size = -(-count // 8)
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    if base64.b64encode(found).decode() != text:
        raise ValueError("not base64 as it is written")
    if len(found) < size:
        stream = zlib.decompressobj()
        try:
            found = stream.decompress(found, size + 1)  # no more, whatever it would unpack to
        except zlib.error as error:
            raise ValueError(f"fewer than {count:,} bits, and no zlib stream") from error
        if not stream.eof or stream.unused_data:
            raise ValueError(f"not a zlib stream of {count:,} bits")
    if len(found) != size or (count % 8 and found[-1] & (0xFF >> count % 8)):
        raise ValueError(f"not {count:,} bits")
    return found


def ones(text: str, count: int) -> int:
    """How many of ``count`` bits are set; raises ValueError as :func:`as_bytes` does."""
    return int.from_bytes(as_bytes(text, count)).bit_count()
