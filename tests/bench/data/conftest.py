"""Fixtures: a folder of images, and streams."""

import pytest
from support.image_folders import write_folder

from bench.data import registration


@pytest.fixture
def folder(tmp_path):
    """Three classes of ten training and four test pictures, 8x8, in colour."""
    return write_folder(tmp_path / "animals")


@pytest.fixture
def streaming(monkeypatch):
    """Every data set of files is too large to keep."""
    monkeypatch.setattr(registration, "IN_MEMORY_BYTES", 0)
