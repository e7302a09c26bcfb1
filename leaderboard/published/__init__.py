"""Numbers that papers publish, and what was measured of them."""
