"""Images that could be taken for those of another data set, known by the hashes of their files. Needs no torch."""

from __future__ import annotations

CIFAR10_JPEG75 = (
    "1ade31533f5d4dea3825060e08e9ce96ed156c057f4c1f1be999e9b81dd75ac8",
    "d172d0d7bf6321b17c3bdc547694f9d03e2b9afad98f07533b49f327566bd5ae",
)
"""Training and test part of ``cifar10_jpeg75``: labels and files, see ``bench.data.file_hashes``."""
CIFAR10_JPEG75_FILES = "60b2c77e732cde089eaff5a1b8a3827c9ac7e376cd38fc069e8789e96b73b236"
"""Files of its test part, whatever their names, order and classes."""
TEST_SHA256 = {"cifar10_jpeg75": CIFAR10_JPEG75[1]}
"""Registered data set -> hash of its test part."""
NOT_CIFAR10 = (
    "its images are those of cifar10_jpeg75, CIFAR-10 after JPEG compression, which is another data set: a published "
    "ResNet-56 has 83.20 % on it and 93.39 % on CIFAR-10, so published numbers say nothing of it"
)


def why_not_published(test_sha256: str | None) -> str:
    """Why no published number belongs to these test images, by a hash of this module; empty for all others."""
    return NOT_CIFAR10 if test_sha256 in (CIFAR10_JPEG75[1], CIFAR10_JPEG75_FILES) else ""
