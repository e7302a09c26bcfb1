"""Former import paths."""

import importlib
import sys

import pytest

from bench import moved


def test_former_modules_are_the_present_ones_and_warn(monkeypatch):
    for old, new in sorted(moved.MODULES.items()):
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, old, raising=False)
            present = importlib.import_module(new)
            spec = present.__spec__
            with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
                former = importlib.import_module(old)
            assert former is present
            assert present.__spec__ is spec
            patch.delitem(sys.modules, old)
    for name in moved.DATA:
        with pytest.warns(DeprecationWarning, match=f"bench.data.{name} is now bench.data.loading.{name}"):
            former = getattr(importlib.import_module("bench.data"), name)
        assert former is getattr(importlib.import_module("bench.data.loading"), name)


def test_other_names_are_unknown():
    for name in ("bench.discovery", "bench.data.nothing"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
        with pytest.raises(ImportError):
            exec(f"from {name.rpartition('.')[0]} import {name.rpartition('.')[2]}")
